"""What tests of several stages begin with."""

import pytest

from helpers.linear import write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the files that studies of the linear world name."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder
