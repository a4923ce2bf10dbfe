"""Somebody else on the machine, or in its network, who tries to have a run's processes run code."""

import asyncio
import os
import pickle
import ssl
from collections.abc import Iterable
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
from distributed import Security
from distributed.comm import connect

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
Address = tuple[str, int]


def doors(processes: Iterable[psutil.Process]) -> set[Address]:
    """Where these processes, and those that they started, wait for connections."""
    family = {child for process in processes for child in [process, *process.children(recursive=True)]}
    sockets = [socket for process in family for socket in process.net_connections("inet")]
    open_at = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
    return {(EVERYWHERE if at.ip == "::" else at.ip, at.port) for at in open_at}


def intruders() -> dict[str, ssl.SSLContext | None]:
    """Without TLS, with it but without a certificate, and with one of their own; none minds who answers."""
    bare = ssl._create_unverified_context()
    foreign = Security.temporary().get_connection_args("client")["ssl_context"]
    foreign.verify_mode = ssl.CERT_NONE
    return {"tcp": None, "no certificate": bare, "another certificate": foreign}


def reached(address: Address) -> str:
    """An address as it is reached from here; who listens everywhere does so here too."""
    host, port = address
    return f"{LOOPBACK if host == EVERYWHERE else host}:{port}"


async def runs_code(address: Address, context: ssl.SSLContext | None) -> bool:
    """Whether what listens there does as it is told. Schedulers know one word for it, workers and nannies the other."""
    order = {"function": pickle.dumps(os.getpid), "args": pickle.dumps(()), "kwargs": pickle.dumps({}), "reply": True}
    secure = {"ssl_context": context} if context else {}
    try:
        comm = await connect(f"{'tls' if context else 'tcp'}://{reached(address)}", **secure)
        answers = []
        for word in ("run", "run_function"):
            await comm.write({"op": word, **order})
            answers.append(await comm.read())
        return any(answer and answer["status"] == "OK" for answer in answers)
    except OSError:
        return False


def let_in(addresses: set[Address], context: ssl.SSLContext | None) -> set[Address]:
    """At which of these addresses somebody who comes so can have code run."""

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(runs_code(address, context) for address in addresses))

    return {address for address, ran in zip(addresses, asyncio.run(all_at_once()), strict=True) if ran}


def status(address: Address) -> int | None:
    """What an HTTP server says when asked for a page of Dask's; none where it is no such server."""
    try:
        with urlopen(f"http://{reached(address)}/metrics", timeout=60) as page:
            return page.status
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None
