"""Storage URLs as messages show them: never with a password."""

from pathlib import Path

import pytest

from nsopt.errors import NsoptError
from nsopt.storage.opening import hide_password, open_storage, read_url, sqlite_url, storage_file
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails

SECRET = "sesame"
COMMANDS = ("study", "tune", "search", "report", "latency", "export", "widths", "worker")
NEEDED = {"report": ("--out=r",), "export": ("--study=s", "--out=o"), "worker": ("--study=s",)}


@pytest.mark.parametrize("name", ["10%data", "%41", "q?x=1", "a#b", "a b", "a@b:c", "{x}", "ü&+;"])
def test_the_url_of_a_path_names_this_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "study.db"
    url = sqlite_url(path)
    assert storage_file(url) == path
    assert hide_password(url) == url
    open_storage(url)
    assert path.is_file()
    assert [found.name for found in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///runs/study.db", "sqlite:///runs/study.db"),
        ("sqlite:///runs/a@b:c.db", "sqlite:///runs/a%40b%3Ac.db"),
        ("sqlite://", "sqlite://"),
        ("mysql://me@[::1]:3306/d", "mysql://me@[::1]:3306/d"),
        ("results", "results"),
        ("postgresql://me:sesame@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:open@sesame@h/d", "***"),
        ("postgresql://me:a@b:sesame@h:5/d", "***"),
        ("postgresql://me:a/sesame@h/d", "postgresql://me:***@h/d"),
        ("postgresql:///me:sesame@h/d", "***"),
        ("postgresql://me:a?sesame@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:sesame", "***"),
        ("postgresql://h/d?password=sesame", "postgresql://h/d"),
        ("postgresql:///d?passwd=a&sesame", "postgresql:///d"),
        ("postgresql://h/d?password=a@sesame", "postgresql://h/d"),
        ("sqlite+pysqlcipher://:sesame@/x.db?cipher=aes", "sqlite+pysqlcipher://:***@/x.db"),
        ("postgresql//me:sesame@h/d", "***"),
        ("host=h password=sesame", "***"),
        ("me sesame://h", "***"),
    ],
)
def test_passwords_are_hidden(url: str, expected: str) -> None:
    assert hide_password(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("://x", "postgresql//me:sesame@h/d"),
        *("postgresql://h:sesame/d", "postgresql://me:a@b:sesame@h:5/d"),
        *("postgresql://me:open@sesame@h/d", "postgresql://me:a@h/sesame@h/d"),
        *("mysql://me:sesame@h:65536", "postgresql:///me:sesame@h/d"),
    ],
)
def test_an_invalid_url_raises_an_error_that_says_how_to_write_it(url: str) -> None:
    expected = r"not a database URL such as sqlite.* %40 .* a port up to 65535"
    with pytest.raises(NsoptError, match=expected) as caught:
        read_url(url)
    assert SECRET not in str(caught.value)
    with pytest.raises(NsoptError, match=r"not a database URL .*: write sqlite:/// before a file"):
        read_url("study.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///w/10%data.db", "write sqlite:/// before a file, %25"),
        ("journal:///w/10%data.db", "write sqlite:/// before a file, %25"),
        ("postgresql://me:sesame%da@h/d", "write sqlite:/// before a file, %25"),
        ("sqlite:///\udcc3.db", "is not a database URL"),
        ("sqlite:///w/no?x=1.db", "storage 'sqlite:///w/no' is not .*%3F"),
        ("sqlite:///w/no?timeout=5&sesame=1", "is not a database URL .*%3F"),
        ("journal:///w/no?x=1.db", "is not a database URL .*%3F"),
    ],
)
def test_unquoted_letters_in_the_name_of_a_file_are_refused(
    url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NsoptError, match=message) as caught:
        open_storage(url)
    assert SECRET not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_known_options_of_sqlite_are_accepted() -> None:
    assert storage_file("sqlite:///w/x.db?timeout=5") == Path("w/x.db")
    read_url("sqlite:///file:w/x.db?mode=ro&uri=true")


@pytest.mark.parametrize("command", [*COMMANDS, "dashboard"])
def test_every_command_reads_the_storage_from_the_environment(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSOPT_STORAGE", "postgresql://me:sesame@h:port/d")
    done = call_nsopt(command, *NEEDED.get(command, ()))
    assert_fails(done, "storage '***' is not a database URL")


@pytest.mark.parametrize(
    "words",
    [
        ("study", "postgresql://me:sesame@h/d"),
        ("study", "--seeds=postgresql://me:sesame@h/d"),
        ("postgresql://me:sesame@h/d",),
        ("study", "--data", "postgresql://me:sesame@h/d"),
        ("latency", "--batch-size=postgresql://me:sesame@h/d"),
        ("compress", "--weights=postgresql://me:sesame@h/d", "--budgets=macs=50%"),
        ("export", "--storage=x", "--study=s", "--out=o", "--format", "postgresql://me:sesame@h/d"),
    ],
)
def test_a_misplaced_url_is_quoted_without_its_password(words: tuple[str, ...]) -> None:
    assert_fails(call_nsopt(*words), "postgresql://me:***@h/d")


def test_a_law_in_a_file_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSOPT_STORAGE", "sqlite:///none.db")
    assert_fails(call_nsopt("widths", "--law=nowhere.json"), "cannot read a law from nowhere.json")
    assert_fails(
        call_nsopt("widths", "--law=l", "--storage=sqlite:///x.db"), "--law FILE or --storage"
    )
