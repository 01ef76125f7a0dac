"""The README's example runs as it stands there, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import collectives
import strip

README = (strip.ROOT / "README.md").read_text()


def test_two_peers_run_the_example(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 21
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        assert "127.0.0.1:7077" in example
        script = tmp_path / "example.py"
        # Both would have one name, and train longer than a test should.
        text = example.replace("127.0.0.1:7077", coordinator.address)
        script.write_text(text.replace('name="lab-3", ', "").replace("< 100", "< 3"))
        peers = [
            subprocess.Popen(
                [sys.executable, script],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for _ in range(2)
        ]
        try:
            printed = sorted(peer.communicate(timeout=60)[0] for peer in peers)
        finally:
            for peer in peers:
                peer.kill()
    assert [peer.returncode for peer in peers] == [0, 0], printed
    assert re.fullmatch(r"rank 0 of 2\n(\d: of \('.+', '.+'\) in \d\.\d{3} s\n){3}", printed[0]), (
        printed[0]
    )
    assert printed[1] == "rank 1 of 2\n"


PAGES = ["README.md", "CONTRIBUTING.md", *(
    str(page.relative_to(strip.ROOT)) for page in sorted((strip.ROOT / "docs").rglob("*.md"))
)]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    file = strip.ROOT / page
    text = file.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        linked = (file.parent / path) if path else file
        assert linked.exists(), f"{page} links to {target}"
        if heading:
            headings = {
                re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in linked.read_text().splitlines()
                if line.startswith("#")
            }
            assert heading in headings, f"{page} links to {target}"
