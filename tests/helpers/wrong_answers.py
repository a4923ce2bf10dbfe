"""What participants answer, by exercise, and what the check below it says to that."""

WRONG = {
    "1.1": [
        ("def difference_of_means(above, below): above.mean(0) - below.mean(0)", "gives nothing back"),
        ("def difference_of_means(above, below): return above.mean() - below.mean()", "gives back one number"),
        ("def difference_of_means(above, below): return above.mean(0) - below.mean(0)", "its length is 5, and"),
        (
            "def difference_of_means(above, below):\n"
            "    v = below.mean(0) - above.mean(0)\n"
            "    return v / np.linalg.norm(v)",
            "it leads from above to below",
        ),
        ("def difference_of_means(above, below): return np.ones(3) / 3**0.5", "the vector has to be 0, and is not"),
        (
            "def difference_of_means(above, below): return above.mean(0) - bellow.mean(0)",
            "name 'bellow' is not defined",
        ),
        (
            "def difference_of_means(above, below):\n    return above - below",
            "stopped at `return above - below` in difference_of_means",
        ),
    ],
    "1.2": [
        ("def auroc(with_it, without): return (with_it > without).mean()", "against all of the other"),
        ("def auroc(with_it, without): return (with_it[:, None] < without).mean()", "turn the comparison"),
        ("def auroc(with_it, without): return (with_it[:, None] > without).sum()", "divide by the number of pairs"),
        ("def auroc(with_it, without): return (with_it[:, None] > without).mean()", "half a pair"),
    ],
    "1.3": [
        ("def dealt(above, below, rng): return rng.permutation(above), rng.permutation(below)", "no text changes"),
        ("def dealt(above, below, rng): return rng.permutation(np.concatenate([above, below]))", "two groups back"),
        (
            "def dealt(above, below, rng):\n"
            "    heap = rng.permutation(np.concatenate([above, below]))\n"
            "    return heap[:15], heap[15:]",
            "groups of 15 and 15 rows",
        ),
        (
            "def dealt(above, below, rng):\n"
            "    heap = rng.choice(np.concatenate([above, below]), len(above) + len(below))\n"
            "    return heap[: len(above)], heap[len(above) :]",
            "torn apart, lost or doubled",
        ),
        (
            "def dealt(above, below, rng):\n"
            "    heap = np.random.default_rng(0).permutation(np.concatenate([above, below]))\n"
            "    return heap[: len(above)], heap[len(above) :]",
            "shuffle by `rng`",
        ),
        (
            "def dealt(above, below, rng):\n"
            "    heap = np.random.permutation(np.concatenate([above, below]))\n"
            "    return heap[: len(above)], heap[len(above) :]",
            "take it from `rng` alone",
        ),
        ("def dealt(above, below, rng): return np.ones(20), np.ones(10)", "whole rows are dealt"),
        ("def dealt(above, below, rng):\n    rng.shuffle(above)\n    return above, below", "alters what it is given"),
    ],
    "1.4": [
        ("def p_value(found, null): return (null >= found).mean()", "add 1 to both"),
        ("def p_value(found, null): return (1 + (null <= found).sum()) / (1 + len(null))", "it is 1 where no draw"),
        ("def p_value(found, null): return (1 + (null > found).sum()) / (1 + len(null))", "counts too: >="),
        ("def p_value(found, null): return (1 + (null >= found).sum()) / len(null)", "should be 1/5"),
    ],
    "2.1": [
        (
            "def push(h, direction, alpha, length): return alpha * length * direction",
            "gives back numbers of shape (3,)",
        ),
        ("def push(h, direction, alpha, length): return 0 * h + alpha * length * direction", "the push alone"),
        ("def push(h, direction, alpha, length): return h - alpha * length * direction", "the sign is turned"),
        ("def push(h, direction, alpha, length): return h + length * direction", "the same whatever alpha"),
        ("def push(h, direction, alpha, length): return h + alpha * direction", "should be alpha × length"),
        ("def push(h, direction, alpha, length):\n    h += alpha * length * direction\n    return h", "alters what it"),
    ],
    "2.2": [
        (
            "def log_odds(z, t, f): return np.log(np.exp(z[:, t]).sum(1) / np.exp(z[:, f]).sum(1))",
            "e^1000 is too large",
        ),
        ("def log_odds(z, t, f): return z[:, t].mean(1) - z[:, f].mean(1)", "a mean of logits"),
        ("def log_odds(z, t, f): return z[:, t].sum(1) - z[:, f].sum(1)", "probabilities are to be added"),
        ("def log_odds(z, t, f): return z[:, t].max(1) - z[:, f].max(1)", "not the best alone"),
        ("def log_odds(z, t, f): return np.exp(z[:, t]).sum(1) / np.exp(z[:, f]).sum(1)", "take their logarithm"),
        ("def log_odds(z, t, f): return np.log2(np.exp(z[:, t]).sum(1) / np.exp(z[:, f]).sum(1))", "in bits"),
        (
            "def log_odds(z, t, f):\n"
            "    return np.logaddexp.reduce(z[:, f], axis=1) - np.logaddexp.reduce(z[:, t], axis=1)",
            "turn it round",
        ),
    ],
    "2.3": [
        ("def random_direction(size, rng): return rng.normal(size=size)", "its length is not 1"),
        (
            "def random_direction(size, rng):\n    v = rng.random(size)\n    return v / np.linalg.norm(v)",
            "all its numbers are above 0",
        ),
        (
            "def random_direction(size, rng):\n    v = rng.uniform(-1, 1, size)\n    return v / np.linalg.norm(v)",
            "it prefers the diagonals",
        ),
        (
            "def random_direction(size, rng):\n    return rng.choice([-1.0, 1.0]) * np.eye(size)[rng.integers(size)]",
            "it prefers the axes",
        ),
        (
            "def random_direction(size, rng):\n"
            "    v = np.random.default_rng(0).normal(size=size)\n"
            "    return v / np.linalg.norm(v)",
            "always the same one",
        ),
        (
            "def random_direction(size, rng):\n    v = np.random.normal(size=size)\n    return v / np.linalg.norm(v)",
            "take it from `rng` alone",
        ),
    ],
    "2.4": [
        ("def kl(z, y): return (np.exp(z) * (z - y)).sum(1)", "logits are no log-probabilities yet"),
        ("def kl(z, y): return (np.exp(y) * (y - z)).sum(1)", "weigh by the unsteered"),
        ("def kl(z, y): return (np.exp(z) * (y - z)).sum(1)", "it is negative"),
        ("def kl(z, y): return (np.exp(z) * (z - y)).mean(1)", "add up over words"),
        ("def kl(z, y): return (np.exp(z) * (z - y)).sum(1) / np.log(2)", "in bits"),
        ("def kl(z, y): return (np.exp(z) * (z - y)).sum()", "gives back one number"),
    ],
    "3.1": [
        ('def curve(slope, split): return slope.where(split == "test").mean("prompt").max("layer")', "look too good"),
        ('def curve(slope, split): return slope.where(split == "test").mean("prompt")', "a number for each layer"),
        (
            'def curve(slope, split): return slope.where(split == "validation").mean("prompt").max("layer")',
            "of validation prompts, which chose",
        ),
        (
            "def curve(slope, split):\n"
            '    chosen = slope.where(split == "validation").mean(["prompt", "step"]).argmax("layer")\n'
            '    return slope.where(split == "test").mean("prompt").isel(layer=chosen)',
            "one layer is taken for all steps",
        ),
        ("def curve(slope, split): return slope.mean().item()", "what xarray makes of it"),
    ],
    "3.2": [
        ("def bar(null, least): return [95, 0.5]", "lower than the least effect"),
        ('def bar(null, least): return null.quantile(0.95, "deal")', "lower than the least effect"),
        ('def bar(null, least): return np.maximum(null.max("deal"), least)', "grows with their number"),
        ('def bar(null, least): return np.maximum(null.quantile(0.05, "deal"), least)', "not the upper end"),
        ('def bar(null, least): return null.quantile(0.95, "deal") + least', "not to be added"),
        ("def bar(null, least): return np.maximum(null.quantile(0.95), least)", "one number for each step"),
    ],
    "3.3": [
        (
            "def resampled(slopes, rng):\n    return slopes[:, rng.permutation(slopes.shape[1])].mean(1)",
            "draw with replacement",
        ),
        (
            "def resampled(slopes, rng):\n    return np.array([rng.choice(row, len(row)).mean() for row in slopes])",
            "draw once for all",
        ),
        (
            "def resampled(slopes, rng):\n    return slopes[:, rng.integers(slopes.shape[1], size=3)].mean(1)",
            "varies too much",
        ),
        (
            "def resampled(slopes, rng):\n    return slopes[:, rng.integers(slopes.shape[1], size=99)].mean(1)",
            "varies too little",
        ),
        (
            "def resampled(slopes, rng):\n    n = slopes.shape[1]\n"
            "    return slopes[:, np.random.randint(n, size=n)].mean(1)",
            "take it from `rng` alone",
        ),
        (
            "def resampled(slopes, rng):\n    n = slopes.shape[1]\n"
            "    return slopes[:, rng.integers(1 + n // 2, size=n)].mean(1)",
            "never drawn",
        ),
    ],
    "3.4": [
        (
            "def onset(steps, values, bars):\n    return steps[np.argmax(values > bars)]",
            "a single checkpoint above the bar is not enough",
        ),
        (
            "def onset(steps, values, bars):\n"
            "    for k in range(len(steps) - 1):\n"
            "        if values[k] > bars[k] and values[k + 1] > bars[k + 1]:\n"
            "            return k",
            "give the step: 20",
        ),
        (
            "def onset(steps, values, bars):\n"
            "    for k in range(1, len(steps)):\n"
            "        if values[k] > bars[k] and values[k - 1] > bars[k - 1]:\n"
            "            return steps[k]",
            "not the second",
        ),
        (
            "def onset(steps, values, bars):\n"
            "    for k in range(len(steps)):\n"
            "        if (values[k : k + 2] > bars[k : k + 2]).all():\n"
            "            return steps[k]",
            "nobody knows whether it lasts",
        ),
        (
            "def onset(steps, values, bars):\n"
            "    for k in range(len(steps) - 1):\n"
            "        if (values[k : k + 2] > bars[0]).all():\n"
            "            return steps[k]",
            "a bar of its own",
        ),
        ("def onset(steps, values, bars): return None", "and you find none"),
        ("def onset(steps, values, bars): return steps[values > bars]", "where one number should be"),
        ("onset = 20", "20 stands where the exercise asks for a function"),
        ("def onset(steps, values): return 20", "this cannot be checked. What Python says: TypeError"),
    ],
    "4.1": [
        ('def my_world(): return {"emotions": {"anger": {"frequency": 0.3}}}', "two things"),
        ('def my_world(): return {}, ["anger", "fear"]', "that is the world as it was"),
        ('def my_world(): return {"emotions": {"anger": {"frequency": 0.3}}}, ["anger"]', "1 emotions are watched"),
        (
            'def my_world(): return {"emotions": {"anger": {"frequency": 1.3}}}, ["anger", "fear"]',
            "such a world cannot be made. ",
        ),
        (
            'def my_world(): return {"emotions": {"anger": {"frequency": 0.3}}}, ["anger", "plaice"]',
            "such a world cannot be made. ",
        ),
        (
            'def my_world(): return {"emotions": {"anger": {"frequency": 0.3}}}, ["anger", "place"]',
            "['place'] is no emotion of your world",
        ),
        ('def my_world(): return "more anger", ["anger", "fear"]', "where a dictionary should be"),
    ],
    "4.2": [
        ("def prediction(): return 300", "300 is no dictionary"),
        ('def prediction(): return {"anger": 60}', "None says: never"),
        (
            'def prediction(): return {"anger": 60, "happiness": None, "disgust": None, "fear": 20}',
            "fear is not among those",
        ),
        (
            'def prediction(): return {"anger": "soon", "happiness": None, "disgust": None}',
            "anger: 'soon' is neither a step nor None",
        ),
        (
            'def prediction(): return {"anger": 6000, "happiness": None, "disgust": None}',
            "anger: training has 120 steps",
        ),
    ],
    "4.3": [
        ("def in_order(guess, truth): return sum(guess[k] == truth[k] for k in truth)", "all three pairs are right"),
        (
            "from itertools import combinations\n"
            "def in_order(guess, truth):\n"
            "    return np.mean([guess[a] < guess[b] for a, b in combinations(truth, 2)])",
            "'<' not supported between instances of 'NoneType'",
        ),
        (
            "from itertools import combinations\n"
            "def in_order(guess, truth):\n"
            "    g, t = ({k: v or 1e9 for k, v in d.items()} for d in (guess, truth))\n"
            "    return np.mean([(g[a] < g[b]) == (t[a] < t[b]) for a, b in combinations(t, 2)])",
            "half right",
        ),
        (
            "from itertools import combinations\n"
            "def in_order(guess, truth):\n"
            "    g, t = ({k: v or 1e9 for k, v in d.items()} for d in (guess, truth))\n"
            "    score = lambda a, b: 0.5 if g[a] == g[b] else (g[a] < g[b]) == (t[a] < t[b])\n"
            "    return np.mean([score(a, b) for a, b in combinations(t, 2)])",
            "there is no score: None",
        ),
    ],
}
