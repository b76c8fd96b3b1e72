import pytest

from cfs.cli.configuration import (
    Configuration,
    ConfigurationError,
    NodeSection,
    StorageSection,
    dump,
    load,
)


def written(tmp_path, text):
    path = tmp_path / "cfs.toml"
    path.write_text(text)
    return path


def test_what_is_written_is_read_again(tmp_path):
    made = Configuration(
        node=NodeSection(name='a "b"', role="storage", host="::1", port=7001),
        storage=StorageSection(disks=("/srv/1", "/srv/2"), reserve_bytes=5),
    )
    assert load(written(tmp_path, dump(made))) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[nod]\n", "did you mean 'node'"),
        ("[node]\nprot = 1\n", "did you mean 'port'"),
        ("[node]\nzzz = 1\n", "known: domain, host"),
        ("[node]\nport = 'x'\n", "node.port must be int"),
        ("[node]\nport = true\n", "node.port must be int"),
        ("[storage]\ndisks = 'x'\n", "must be a list of strings"),
        ("node = 3\n", "must be a section"),
        ("[node\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path, text, says):
    with pytest.raises(ConfigurationError) as error:
        load(written(tmp_path, text))
    assert says in str(error.value)
    assert "cfs.toml" in str(error.value)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match="run 'cfs cluster init' or 'cfs node join'"):
        load(tmp_path / "cfs.toml")
