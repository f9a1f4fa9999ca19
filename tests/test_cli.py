"""`goldwax`: whatever is wrong with what it is given ends with one line that says so."""

from pathlib import Path

import pytest

from flows.commands.cli import main
from tests.test_stages import Chain, thing

SHOP = """
from flows import Pipeline
from tests.test_stages import KINDS, THINGS
pipeline = Pipeline("demo", tables=[THINGS, KINDS])
"""


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("module", ["./a_shop.py", "a_shop.py", ".a_shop", "", "a shop", "..", "shops/a_shop"])
def test_what_is_no_name_of_a_module_is_said_so(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "expected a module as Python imports it, such as flows.flights, without a path or .py"
    assert f"tables: received {module!r}, {expected}" in told(capsys, "tables", module)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nonexist", "ModuleNotFoundError: No module named 'nonexist'"),
        ("from flows import Silvre", "ImportError: cannot import name 'Silvre' from 'flows'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("pipeline = ", "SyntaxError: invalid syntax"),
        ("from flows import Sum\nSum(5)", "DeclarationError: Sum: column: received 5, expected a text"),
    ],
)
def test_a_module_that_fails_is_told_by_its_own_error(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_failing_shop.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    line = told(capsys, "tables", "a_failing_shop")
    assert f"cannot import 'a_failing_shop': {message}" in line
    assert "python -c 'import a_failing_shop' says where" in line


@pytest.mark.parametrize("module", ["a_shop_that_is_not", "flows.nowhere", "nowhere.at.all"])
def test_a_module_that_is_not_there_is_said_so(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "; run the command where the module is" in told(capsys, "tables", module)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]\n"])
def test_a_table_whose_log_is_damaged_is_named(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_damaged_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GOLDWAX_LAKE", str(tmp_path / "lake"))
    Chain(tmp_path / "lake").advance(thing(1, 1))
    (tmp_path / "lake/silver/things/_delta_log/00000000000000000001.json").write_bytes(content)
    assert "lake/silver/things: the Delta table cannot be read: " in told(capsys, "tables", "a_damaged_shop")
