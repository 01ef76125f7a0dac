"""The network on the command line: hosts, sites and figures of the links, as people write them."""

from __future__ import annotations

import dataclasses
import re

from collectives.errors import InvalidArgument
from collectives.topology import LEVELS, Level, Network, usual

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_RATES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


def seconds(text: str) -> float:
    """Return the seconds in ``"50us"``, ``"1.5ms"`` or ``"0.1"``.

    Raises:
        InvalidArgument: the text is no time.
    """
    match = re.fullmatch(_NUMBER + r"\s*(s|ms|us|)", text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is no latency; write for example 50us, 1.5ms or 0.1s")
    return float(match[1]) * _SECONDS[match[2]]


def rate(text: str) -> float:
    """Return the bytes/s in ``"1.2G"``, ``"100M"``, or in ``"10Gbit"`` (powers of 1000).

    Raises:
        InvalidArgument: the text is no rate.
    """
    match = re.fullmatch(_NUMBER + r"\s*([KMGT]?)(bit)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InvalidArgument(
            f"{text!r} is no bandwidth; write bytes a second, for example 1.2G, or 10Gbit"
        )
    return float(match[1]) * _RATES[match[2].upper()] / (8 if match[3] else 1)


def _numbers(text: str, what: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts):
        raise InvalidArgument(f"{what} are {text!r}; write how many there are of each, as in 2,2,4")
    return [int(part) for part in parts]


def groups(size: int | None, hosts: str | None, sites: str | None) -> tuple[int, Network]:
    """Return how many ranks there are, and the usual network between them.

    As in a view, a level that says nothing is left out: that all are on one host, or each on its
    own, and likewise of sites.

    Args:
        size: how many ranks; None: as `hosts` say.
        hosts: how many ranks each host has, in the order of the ranks; None: one each.
        sites: how many hosts each site has; None: there are none.

    Raises:
        InvalidArgument: they make no sense, or do not fit together.
    """
    on_hosts = _numbers(hosts, "hosts") if hosts else [1] * (size or 0)
    if not on_hosts:
        raise InvalidArgument("how many ranks? give --size, or --hosts")
    if size not in (None, sum(on_hosts)):
        raise InvalidArgument(f"--size {size}, but the hosts have {sum(on_hosts)} ranks")
    at_sites = _numbers(sites, "sites") if sites else [len(on_hosts)]
    if sum(at_sites) != len(on_hosts):
        raise InvalidArgument(
            f"the sites have {sum(at_sites)} hosts, but there are {len(on_hosts)}"
        )
    host_of = [host for host, ranks in enumerate(on_hosts) for _ in range(ranks)]
    site_of = [site for site, count in enumerate(at_sites) for _ in range(count)]
    ranks = len(host_of)
    places = [tuple(host_of), tuple(site_of[host] for host in host_of)]
    kept = tuple(level for level in places if 1 < len(set(level)) < ranks)
    network = usual(kept, local=bool(hosts) and len(on_hosts) == 1)
    if kept and len(set(places[0])) == ranks:  # sites of hosts with one rank each
        network = dataclasses.replace(network, levels=(LEVELS["lan"], LEVELS["wan"]))
    return ranks, network


def adapted(
    network: Network, links: str | None, latency: str | None, bandwidth: str | None
) -> Network:
    """Return the network with other figures, one for each level, the innermost first.

    Args:
        network: with figures of ordinary links.
        links: names of `topology.LEVELS`.
        latency: as `seconds` reads them.
        bandwidth: as `rate` reads them: of a link, and of what a process or a host sends in all.

    Raises:
        InvalidArgument: they are not as many as there are levels, or make no sense.
    """
    levels = list(network.levels)

    def parts(text: str | None, what: str) -> list[str]:
        found = text.split(",") if text else [""] * len(levels)
        if len(found) != len(levels):
            raise InvalidArgument(
                f"{what} has {len(found)} figures, but there are {len(levels)} levels of links;"
                " write one for each, the innermost first"
            )
        return found

    for i, name in enumerate(parts(links, "--links")):
        if name and name not in LEVELS:
            raise InvalidArgument(f"{name!r} are no links; known are {', '.join(LEVELS)}")
        levels[i] = LEVELS[name] if name else levels[i]
    for i, text in enumerate(parts(latency, "--latency")):
        if text:
            levels[i] = dataclasses.replace(levels[i], latency=seconds(text))
    for i, text in enumerate(parts(bandwidth, "--bandwidth")):
        if text:
            levels[i] = _faster(levels[i], rate(text))
    local = not network.places and (levels[0].written_once if links else network.local)
    return dataclasses.replace(network, levels=tuple(levels), local=local)


def _faster(level: Level, bandwidth: float) -> Level:
    factor = bandwidth / level.bandwidth
    return dataclasses.replace(
        level,
        bandwidth=bandwidth,
        uplink=level.uplink * factor,
        fabric=level.fabric * factor,
    )
