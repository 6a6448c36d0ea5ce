"""The report: what it finds out, what it says, and that the page is safe, small and alone."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from runtime.base.errors import UserError
from runtime.profile import chart
from runtime.profile.findings import find
from runtime.profile.records import load
from runtime.profile.report import build_report, summarise
from runtime.profile.summary import summarise_records
from tests.unit.profile import jobs

VOID = {"meta", "br", "hr", "img", "link", "input"}
EVIL = "</title></style><script>alert(1)</script>\"><img src=x onerror=alert(2)>'&"


class Page(HTMLParser):
    """Collects elements and attributes, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def facts(directory):
    return summarise_records(load(directory))


def texts(directory):
    return [finding.text for finding in find(facts(directory))]


class TestFacts:
    def test_an_interrupted_job(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        summary = facts(tmp_path)
        first, second = summary.attempts
        assert first.interrupted_by == "SIGTERM after step:50"
        assert second.gap_before_s == pytest.approx(3.0)
        assert (second.resumed_step, second.redone_steps) == (40, 10)
        assert second.redone_s == pytest.approx(1.0 + 9 * 0.1)
        assert summary.steps == 100, "a step that was done again is one step"
        assert summary.redone_steps == 10
        assert first.first_step_at_s == pytest.approx(0.5)
        assert first.last_step_at_s == pytest.approx(0.5 + 1.0 + 49 * 0.1)
        assert summary.first_step_s == pytest.approx(1.0)
        assert summary.median_s == pytest.approx(0.1)
        assert [(rank.attempt, rank.rank) for rank in summary.ranks] == [(a, r) for a in (0, 1) for r in range(4)]
        assert summary.shares["data"] == pytest.approx(0.2)
        assert summary.shares["compute"] == pytest.approx(0.48)
        assert sum(summary.shares.values()) == pytest.approx(1.0)
        assert summary.phases == ("data", "compute", "optimizer", "checkpoint", "other")

    def test_steps_done_again_are_known_without_step_records(self, tmp_path):
        jobs.write_job(
            tmp_path,
            attempts=[jobs.attempt(0, last_step=50), jobs.attempt(1, 10.0, 20.0, resumed_step=40, last_step=60)],
        )
        assert facts(tmp_path).attempts[1].redone_steps == 10

    def test_nothing_is_done_again_when_the_save_was_in_time(self, tmp_path):
        jobs.write_job(
            tmp_path,
            attempts=[jobs.attempt(0, last_step=50), jobs.attempt(1, 10.0, 20.0, resumed_step=50, last_step=60)],
        )
        assert facts(tmp_path).redone_steps == 0

    def test_levels_of_a_host(self, tmp_path):
        jobs.write_samples(tmp_path, times=(0.5, 1.0, 3.0), cpu_pct=55.0, net_rx_bps=None)
        (host,) = facts(tmp_path).hosts
        assert (host.samples, host.left_out, host.cpus) == (3, 3, 8)
        assert host.levels["cpu_pct"].mean == 55.0
        assert "net_rx_bps" not in host.levels, "unknown is not 0"
        assert "net_rx_bps" in " ".join(facts(tmp_path).missing)

    def test_a_new_phase_needs_no_change_here(self, tmp_path):
        folder = tmp_path / "profiler" / "attempt-0" / "algo-1"
        folder.mkdir(parents=True)
        header = {"format": 1, "host": "algo-1", "rank": 0, "world_size": 1, "started": 0.0}
        lines = [{**header, "fields": ["step", "begin", "exchange", "total"]}, [1, 0.0, 0.75, 1.0], [2, 1.0, 0.75, 1.0]]
        (folder / "steps-rank-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert facts(tmp_path).shares == {"exchange": 0.75, "other": 0.25}
        assert "exchange" in Page(build_report(tmp_path)).text

    def test_the_json_is_json(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        record = json.loads(json.dumps(summarise(tmp_path), allow_nan=False))
        assert record["format"] == 1
        assert record["attempts"][1]["redone_steps"] == 10
        assert record["findings"]


class TestTolerance:
    def test_a_cut_last_line_is_left_out_and_counted(self, tmp_path):
        jobs.write_steps(tmp_path, tail="[51,0,5.9,0.0")
        jobs.write_samples(tmp_path, tail='{"t": 17000')
        summary = facts(tmp_path)
        assert summary.steps == 50
        assert summary.hosts[0].samples == 20
        assert any(text.startswith("2 cut") for text in summary.missing)

    @pytest.mark.parametrize(
        "line", ["[1,2]", "7", "null", '["a",0,0,0,0,0,0,0]', "[1,0,0,0,0,0,0,null]", "", "\x00\xff"]
    )
    def test_a_strange_line_is_left_out_and_counted(self, tmp_path, line):
        jobs.write_steps(tmp_path, tail=line + "\n" + jobs.step_line(51, 6.0, 0.1) + "\n")
        (trace,) = load(tmp_path).ranks
        assert (len(trace), trace.unreadable) == (51, 1)

    def test_a_file_that_was_cut_in_its_first_line_is_named(self, tmp_path):
        jobs.write_steps(tmp_path)
        (tmp_path / "profiler" / "attempt-0" / "algo-1" / "steps-rank-1.jsonl").write_text('{"format": 1, "ho')
        assert any("steps-rank-1.jsonl" in text for text in facts(tmp_path).missing)

    def test_a_rank_that_starts_again_in_its_file_goes_on(self, tmp_path):
        jobs.write_steps(tmp_path, steps=range(1, 3))
        file = tmp_path / "profiler" / "attempt-0" / "algo-1" / "steps-rank-0.jsonl"
        header = json.loads(file.read_text().splitlines()[0]) | {"started": jobs.ORIGIN + 100}
        file.write_text(file.read_text() + json.dumps(header) + "\n" + jobs.step_line(3, 2.0, 0.1) + "\n")
        (trace,) = load(tmp_path).ranks
        assert trace.begin[-1] == pytest.approx(jobs.ORIGIN + 102)

    def test_absent_ranks_are_named(self, tmp_path):
        jobs.write_steps(tmp_path, rank=1, world_size=3)
        assert any("2 of 3 ranks: 0, 2" in text for text in facts(tmp_path).missing)

    def test_a_copy_of_a_profiler_directory_is_enough(self, tmp_path):
        jobs.write_steps(tmp_path / "job")
        jobs.write_samples(tmp_path / "job")
        source = tmp_path / "job" / "profiler" / "attempt-0" / "algo-1"
        summary = facts(source)
        assert (summary.steps, len(summary.hosts)) == (50, 1)
        assert "No job.json" in Page(build_report(source)).text

    @pytest.mark.parametrize("write", [jobs.write_job, jobs.write_steps, jobs.write_samples])
    def test_each_part_alone_makes_a_page_that_says_what_is_missing(self, tmp_path, write):
        write(tmp_path)
        assert "What this page does not know" in Page(build_report(tmp_path)).text

    def test_a_header_without_steps_makes_a_page(self, tmp_path):
        jobs.write_steps(tmp_path, steps=range(0))
        assert "No step was recorded" in Page(build_report(tmp_path)).text

    def test_one_step_makes_a_page(self, tmp_path):
        jobs.write_steps(tmp_path, steps=range(1, 2))
        assert facts(tmp_path).median_s == pytest.approx(1.0)
        assert "1" in Page(build_report(tmp_path)).text

    @pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None])
    def test_a_directory_of_no_job_is_refused_with_what_is_expected(self, tmp_path, make):
        make(tmp_path / "x")
        with pytest.raises(UserError, match=r"x (holds neither|is no directory).*slipway run.*--output.*Fix: "):
            build_report(tmp_path / "x")

    def test_several_jobs_are_never_mixed(self, tmp_path):
        jobs.write_steps(tmp_path / "one")
        jobs.write_steps(tmp_path / "two")
        with pytest.raises(UserError, match="holds neither"):
            build_report(tmp_path)

    def test_a_malformed_job_file_is_named(self, tmp_path):
        (tmp_path / "job.json").write_text('{"format": 1}')
        with pytest.raises(UserError, match=r"job\.json cannot be read: KeyError"):
            build_report(tmp_path)

    def test_newer_formats_are_refused_by_name(self, tmp_path):
        jobs.write_job(tmp_path, format=2)
        with pytest.raises(UserError, match=r"job\.json has format 2.*up to 1"):
            build_report(tmp_path)


class TestFindings:
    def test_waiting_for_data_with_idle_cpus_asks_for_workers(self, tmp_path):
        jobs.write_steps(tmp_path, data=0.31)
        jobs.write_samples(tmp_path, cpu_pct=40.0)
        (text,) = [text for text in texts(tmp_path) if "for data" in text]
        assert text.startswith("Ranks wait 31 % of the time for data")
        assert "only 40 % busy" in text
        assert "workers" in text

    def test_waiting_for_data_with_busy_cpus_does_not(self, tmp_path):
        jobs.write_steps(tmp_path, data=0.31)
        jobs.write_samples(tmp_path, cpu_pct=97.0)
        (text,) = [text for text in texts(tmp_path) if "for data" in text]
        assert "97 % busy: decode less" in text

    def test_data_that_keeps_up_is_praised(self, tmp_path):
        jobs.write_steps(tmp_path, data=0.02)
        assert [finding.kind for finding in find(facts(tmp_path)) if "keeps up" in finding.text] == ["good"]

    def test_a_slow_first_batch_is_no_wait_for_data(self, tmp_path):
        jobs.write_steps(tmp_path, data=0.01)
        file = tmp_path / "profiler" / "attempt-0" / "algo-1" / "steps-rank-0.jsonl"
        lines = file.read_text().splitlines()
        lines[1] = jobs.step_line(1, 0.0, 60.0, data=0.99)
        file.write_text("\n".join(lines) + "\n")
        assert not [text for text in texts(tmp_path) if text.startswith("Ranks wait")]

    def test_the_rank_that_waits_for_its_data_is_named(self, tmp_path):
        for rank in range(4):
            jobs.write_steps(tmp_path, rank=rank, world_size=4, host=f"algo-{rank}", data=0.4 if rank == 2 else 0.02)
        named = [text for text in texts(tmp_path) if text.startswith("Rank ")]
        assert len(named) == 1
        assert named[0].startswith("Rank 2 on algo-2 waits 40 %")

    def test_the_slow_rank_is_named(self, tmp_path):
        for rank in range(4):
            jobs.write_steps(tmp_path, rank=rank, world_size=4, step_s=0.2 if rank == 3 else 0.1)
        named = [text for text in texts(tmp_path) if text.startswith("Rank ")]
        assert len(named) == 1
        assert named[0].startswith("Rank 3 on algo-1 takes 200 ms per step, the median rank 100 ms")

    def test_the_interruption_is_told(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        (text,) = [text for text in texts(tmp_path) if "interrupted" in text]
        assert "SIGTERM after step:50; after 3 s attempt 1 went on from the checkpoint of step 40: 10 steps" in text

    def test_memory_that_only_grows_is_told(self, tmp_path):
        jobs.write_samples(tmp_path)
        file = tmp_path / "profiler" / "attempt-0" / "algo-1" / "system-algo-1.jsonl"
        head = file.read_text().splitlines()[0]
        lines = [json.dumps({"t": jobs.ORIGIN + n, "mem_pct": 20 + n / 4}) for n in range(100)]
        file.write_text("\n".join([head, *lines]) + "\n")
        assert any("grew by" in text for text in texts(tmp_path))

    def test_a_healthy_job_has_no_problem(self, tmp_path):
        jobs.write_job(tmp_path)
        jobs.write_steps(tmp_path, data=0.02, first_s=0.2)
        jobs.write_samples(tmp_path)
        assert [finding.text for finding in find(facts(tmp_path)) if finding.kind == "problem"] == []


class TestPage:
    def test_the_facts_are_on_it(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        text = Page(build_report(tmp_path)).text
        for word in (
            "digits",
            "Completed",
            "2 attempts",
            "SIGTERM after step:50",
            "10 done again",
            "resumed at step 40",
        ):
            assert word in text

    def test_it_asks_the_network_for_nothing(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        text = build_report(tmp_path, tmp_path)
        page = Page(text)
        assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.elements)
        assert not [
            name for name, _ in page.attributes if name in {"src", "href", "xlink:href"} or name.startswith("on")
        ]
        assert not re.search(r"https?:|url\(|@import", text)
        assert "default-src 'none'" in text

    def test_hostile_words_stay_words(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        jobs.write_job(
            tmp_path,
            name=EVIL,
            status=EVIL,
            failure_reason=EVIL,
            attempts=[
                jobs.attempt(0, interrupted={"signal": EVIL, "after": EVIL, "at": jobs.ORIGIN}),
                jobs.attempt(1, 10.0, 20.0, hosts=[{"name": EVIL, "exit_code": 1, "seconds": 1.0}]),
            ],
            phases={EVIL: 1.0},
            metrics={EVIL: EVIL},
        )
        folder = tmp_path / "profiler" / "attempt-0" / "algo-1"
        header = {"format": 1, "host": EVIL, "rank": 7, "world_size": 4, "started": jobs.ORIGIN}
        steps = [{**header, "fields": ["step", "begin", EVIL, "total"]}, [1, 0.0, 0.5, 1.0], [2, 1.0, 0.5, 1.0]]
        (folder / "steps-rank-7.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
        samples = [{**header, "interval_ms": 500}, {"t": jobs.ORIGIN + 1, "cpu_pct": 5.0}]
        (folder / "system-evil.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
        page = Page(build_report(tmp_path, tmp_path))
        assert not {"script", "img"} & set(page.elements)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert page.text.count("alert(1)") >= 8, "they are shown, as words"

    def test_drawings_are_well_formed_and_inside_their_frame(self, tmp_path):
        jobs.write_interrupted_job(tmp_path)
        drawings = re.findall(r"<svg.*?</svg>", build_report(tmp_path), flags=re.DOTALL)
        assert len(drawings) == 7, "time line, phases, step time, CPU, memory, disk, network"
        for drawing in drawings:
            root = ElementTree.fromstring(drawing)  # noqa: S314 - our own markup
            assert root.get("aria-label")
            _, _, width, height = map(float, root.attrib["viewBox"].split())
            for element in root.iter():
                for name, edge in (("x", width), ("y", height)):
                    assert 0 <= float(element.get(name) or 0) <= edge
                assert "nan" not in (element.get("d") or "")

    def test_a_long_job_is_a_small_page(self, tmp_path):
        jobs.write_steps(tmp_path, steps=range(1, 50_001), step_s=0.01)
        jobs.write_samples(tmp_path, times=tuple(0.5 * number for number in range(1, 10_001)))
        page = build_report(tmp_path)
        assert len(page) < 100_000
        assert "50,000" in page

    def test_many_ranks_and_hosts_are_a_small_page(self, tmp_path):
        for rank in range(64):
            host = f"algo-{rank // 8 + 1}"
            jobs.write_steps(tmp_path, rank=rank, world_size=64, host=host, data=0.5 if rank == 40 else 0.1)
            jobs.write_samples(tmp_path, host=host)
        page = build_report(tmp_path)
        assert len(page) < 100_000
        assert "8 hosts: median, in a band" in page
        assert ">rank 40</text>" in page, "of many ranks, the unusual ones are drawn"

    def test_a_comparison_shows_both(self, tmp_path):
        for name, step_s in (("old", 0.2), ("new", 0.1)):
            jobs.write_job(tmp_path / name, name=name)
            jobs.write_steps(tmp_path / name, step_s=step_s)
        text = Page(build_report(tmp_path / "new", tmp_path / "old")).text
        assert "Steps are 50 % faster at the median" in text
        assert "200 ms" in text

    def test_a_comparison_of_equals_says_so(self, tmp_path):
        jobs.write_steps(tmp_path)
        assert "as fast, within" in Page(build_report(tmp_path, tmp_path)).text


class TestChart:
    def test_reducing_keeps_every_extreme(self):
        pairs = [(float(n), 1.0) for n in range(10_000)]
        pairs[1234] = (1234.0, 99.0)
        pairs[7000] = (7000.0, -5.0)
        pairs[7001] = (7001.0, math.nan)
        reduced = chart.reduce(pairs, 0.0, 10_000.0, buckets=50)
        assert len(reduced) == 50
        assert max(bucket.high for bucket in reduced) == 99.0
        assert min(bucket.low for bucket in reduced) == -5.0
        assert {bucket.middle for bucket in reduced} == {1.0}

    def test_nothing_reduces_to_nothing(self):
        assert chart.reduce([], 0.0, 0.0) == []

    @pytest.mark.parametrize("end", [0.0004, 0.7, 5, 42, 90, 3600, 86_400, 3e6])
    def test_ticks_are_few_and_round(self, end):
        marks = chart.ticks(end)
        assert 2 <= len(marks) <= 7
        assert marks[0] == 0
        assert marks[-1] <= end
