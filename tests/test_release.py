"""What names the version, names the same one."""

import pathlib
import re

import keras_l2l

ROOT = pathlib.Path(__file__).parents[1]


def test_the_version_is_the_newest_of_the_changelog_and_the_one_to_cite():
    text = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.findall(r"^## \[([\d.]+)\] - (\S+)$", text, re.M)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    cited = dict(
        re.findall(r"^(version|date-released): (\S+)$", citation, re.M)
    )
    assert keras_l2l.__version__ == version == cited["version"]
    assert date == cited["date-released"]


def test_a_release_has_each_heading_once():
    text = (ROOT / "CHANGELOG.md").read_text()
    for release in text.split("\n## ")[1:]:
        headings = re.findall(r"^### (\w+)$", release, re.M)
        assert len(headings) == len(set(headings))
