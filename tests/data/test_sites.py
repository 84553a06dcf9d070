"""Sites that settings name."""

from __future__ import annotations

import pytest

from crossmoda.data.sites import require_sites
from crossmoda.errors import CrossmodaError

ITEMS = [{"site": "ldn"}, {"site": "etz"}, {"site": "ldn"}, {}]


def test_sites_that_are_there_pass_and_none_is_no_site() -> None:
    require_sites("site", ["etz", None], ITEMS, "target")
    require_sites("site", [None], [], "target")


@pytest.mark.parametrize(
    ("site", "items", "told"),
    [
        ("lnd", ITEMS, "there are scans of etz (1), ldn (2), unknown (1); did you mean 'ldn'?"),
        (
            "ukm",
            ITEMS[:3],
            "etz (1), ldn (2); none of the 2 that there are is like it; name one of these, or leave it out",
        ),
        ("ldn", ITEMS[3:], "tell no site; leave it out, or give each item of a datalist its site"),
    ],
)
def test_a_site_without_scans_is_named_with_those_that_are_there(site: str, items: list, told: str) -> None:
    with pytest.raises(CrossmodaError) as caught:
        require_sites("learn_sites", ["etz"] * (len(items) > 1) + [site], items, "target (hrT2)", "DATA")
    message = str(caught.value)
    assert message.startswith(f"learn_sites: DATA has no target (hrT2) scan of site '{site}'; ")
    assert message.endswith(told)
