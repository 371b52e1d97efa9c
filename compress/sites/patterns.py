"""Rules that pick sites: globs on names, operations, sizes."""

import difflib
import fnmatch
import operator
import re
from collections.abc import Sequence

from compress.sites.site import Site, Sites

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def matching_sites(
    sites: Sites,
    patterns: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    *,
    user: str,
) -> list[Site]:
    """The weighted sites that match any of `patterns` and none of `exclude`.

    Args:
      sites: Of the model.
      patterns: Globs on site names or on the paths of their weights (`*` within one
        part of a path, `**` across parts), `op=conv*`, or a comparison of the weight's
        elements, `size>=1000`.
      exclude: Likewise.
      user: Who asks, for the message: `prune.magnitude`.

    Raises:
      ValueError: If a pattern matches nothing, with the nearest names; or if nothing
        is left.
    """
    patterns, exclude = as_list(patterns), as_list(exclude)
    for pattern in [*patterns, *exclude]:
        if not any(_matches(pattern, site) for site in sites.weighted):
            raise ValueError(_no_match(pattern, sites, user))
    chosen = [
        site
        for site in sites.weighted
        if any(_matches(p, site) for p in patterns)
        and not any(_matches(p, site) for p in exclude)
    ]
    if not chosen:
        raise ValueError(
            f"{user}: exclude={list(exclude)} leaves none of the sites that "
            f"sites={list(patterns)} matches. Exclude less."
        )
    return chosen


def as_list(patterns: str | Sequence[str]) -> Sequence[str]:
    """One pattern or several, as several."""
    return [patterns] if isinstance(patterns, str) else patterns


def _matches(pattern: str, site: Site) -> bool:
    if pattern.startswith("op="):
        return fnmatch.fnmatchcase(site.op, pattern[3:])
    size = re.fullmatch(r"size(>=|<=|>|<)(\d+)", pattern)
    if size:
        return _COMPARE[size[1]](site.weight_size, int(size[2]))
    # By path as well, so that `**/kernel` means every use of a weight, `kernel#1` too.
    names = (site.name, site.path or site.name)
    return any(re.fullmatch(glob(pattern), name) for name in names)


def glob(pattern: str) -> str:
    """A glob as a regular expression; `**/` also matches no part at all."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(part) or re.escape(part) for part in parts)


def _no_match(pattern: str, sites: Sites, user: str) -> str:
    names = [site.name for site in sites.weighted]
    skipped = [f"{s.name} ({s.reason})" for s in sites if s.reason is not None]
    return (
        f'{user}: sites="{pattern}" matches none of {len(names)} sites. '
        f"The nearest: {nearest_names(pattern, names)}."
        + (f" Not compressible: {', '.join(skipped[:3])}." if skipped else "")
    )


def nearest_names(pattern: str, names: Sequence[str]) -> str:
    """The names most like a pattern, for a message."""
    nearest = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return ", ".join(nearest) or "there are none"
