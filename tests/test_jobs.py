import pytest

from napari_cellrep.jobs import Progress, Shard, drain


def _count(n, log):
    try:
        for i in range(n):
            yield Progress(i + 1, n)
            log.append(i)
    finally:
        log.append("closed")
    return "result"


def test_drain_returns_the_result_and_reports_every_step():
    seen, log = [], []
    assert drain(_count(3, log), seen.append) == "result"
    assert [p.done for p in seen] == [1, 2, 3]
    assert log == [0, 1, 2, "closed"]


def test_an_error_in_the_listener_closes_the_job():
    log = []

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain(_count(3, log), stop)
    assert log == ["closed"]


def test_shards_share_the_work_without_overlap_whatever_the_order():
    keys = [f"A{i:02d}" for i in range(50)]
    parts = [Shard(i, 4).of(keys) for i in range(4)]
    assert sorted(key for part in parts for key in part) == keys
    assert [Shard(i, 4).of(keys[::-1])[::-1] for i in range(4)] == parts
    assert all(parts)


def test_shard_is_read_from_text():
    assert Shard.parse("1/4") == Shard(1, 4)
    for text in ("4/4", "x", "1", "-1/3"):
        with pytest.raises(ValueError, match=r"[Ss]hard"):
            Shard.parse(text)
