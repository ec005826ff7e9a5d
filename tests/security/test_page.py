"""docs/security.md names existing tests beside every statement, and every attack is on the page."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/security.md"
ROW = re.compile(r"^\| (?!statement|trusted|---)(.+) \| (`test_[^|]*) \|$", re.MULTILINE)


def names_of_tests():
    return {
        name
        for path in HERE.parent.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def test_every_statement_names_tests_that_exist():
    rows = ROW.findall(PAGE.read_text())
    named = {name for _, tests in rows for name in re.findall(r"`(test_\w+)`", tests)}
    assert len(rows) > 30 and named <= names_of_tests(), named - names_of_tests()


def test_every_row_of_a_table_of_statements_has_a_test():
    tables = PAGE.read_text().split("| statement | test |")[1:]
    for table in tables:
        lines = table.split("\n\n")[0].splitlines()
        rows = [line for line in lines if line.startswith("|") and "---" not in line]
        assert rows and all(ROW.match(row) for row in rows), rows
