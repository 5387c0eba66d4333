"""Names of modules, and what a bundle is known by."""

import pytest

from ledgerd.enclave.scripts.jobs import MODULES_MAX, Bundle, canonical
from ledgerd.ledger.errors import UsageError


@pytest.mark.parametrize(
    ("name", "base", "found"),
    [
        ("a.js", "/", "/a.js"),
        ("/src/a.js", "/", "/src/a.js"),
        ("./b.js", "/src/a.js", "/src/b.js"),
        ("../b.js", "/src/deep/a.js", "/src/b.js"),
        ("../../../../etc/passwd", "/src/a.js", "/etc/passwd"),  # below the table's root, like everything
        ("b.js", "/src/a.js", "/b.js"),
        ("//x//y/./z/../w.js", "/", "/x/y/w.js"),
        ("", "/", "/"),
    ],
)
def test_a_module_s_name_is_canonical(name: str, base: str, found: str) -> None:
    assert canonical(name, base) == found


def test_a_bundle_is_known_by_all_of_its_names_and_sources() -> None:
    bundles = [Bundle({"a": "x", "b": "y"}), Bundle({"a": "y", "b": "x"}), Bundle({"a": "xb", "": "y"}), Bundle({"a": "x"}), Bundle({})]
    assert len({bundle.id for bundle in bundles}) == len(bundles)
    assert Bundle({"b": "y", "/a": "x"}).id == bundles[0].id


def test_what_no_bundle_can_be_is_refused() -> None:
    with pytest.raises(UsageError, match="the same name"):
        Bundle({"a": "1", "/a": "2"})
    with pytest.raises(UsageError, match="at most"):
        Bundle({str(number): "" for number in range(MODULES_MAX + 1)})
    with pytest.raises(UsageError, match="at most"):
        Bundle({"a": "x" * (17 << 20)})
