"""DVC as teams use it: branches, queue, shared experiments, shared cache, gc, import. The stages are fake."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Copy
from tests.e2e.test_experiments import experiments, learning_rate
from tests.e2e.test_reruns import reran

EXPORT = Path("models/export/content")


def on_branch(copy: Copy, name: str, lr: float) -> bytes:
    """Commit a run with this learning rate on a new branch. Returns its export."""
    copy.run("git", "checkout", "--quiet", "-b", name, "main")
    copy.set_param("train", "lr", value=lr)
    copy.dvc("repro")
    copy.commit()
    return (copy.root / EXPORT).read_bytes()


def bare_remote(copy: Copy, folder: Path) -> None:
    copy.run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder))
    copy.run("git", "remote", "add", "origin", str(folder))
    copy.run("git", "push", "--quiet", "--all", "origin")


def test_branches_go_back_and_forth_without_a_rerun(quick_copy: Copy) -> None:
    exported = {name: on_branch(quick_copy, name, lr) for name, lr in (("slower", 1e-5), ("faster", 1e-2))}
    assert exported["slower"] != exported["faster"]
    for name in ("slower", "faster", "slower"):
        quick_copy.run("git", "checkout", "--quiet", name)
        quick_copy.dvc("checkout")
        assert (quick_copy.root / EXPORT).read_bytes() == exported[name]
        assert "up to date" in quick_copy.dvc("status").stdout
        assert reran(quick_copy) == set()


def test_the_run_cache_restores_the_outputs_of_another_branch(quick_copy: Copy) -> None:
    exported = on_branch(quick_copy, "slower", 1e-5)
    quick_copy.run("git", "checkout", "--quiet", "main")
    quick_copy.dvc("checkout")
    quick_copy.set_param("train", "lr", value=1e-5)
    assert reran(quick_copy) == set(), "the run cache has it from another branch"
    assert (quick_copy.root / EXPORT).read_bytes() == exported


def test_four_queued_runs_and_two_workers(quick_copy: Copy) -> None:
    rates = {f"rate-{n}": n * 1e-5 for n in range(1, 5)}
    for name, lr in rates.items():
        quick_copy.dvc("exp", "run", "--queue", "--name", name, "-S", f"train.lr={lr}")
    quick_copy.dvc("exp", "run", "--run-all", "--jobs", "2")
    shown = experiments(quick_copy)
    assert {name: learning_rate(each) for name, each in shown.items()} == rates
    assert quick_copy.run("git", "status", "--porcelain").stdout == "", "the workspace is as it was"


def test_an_experiment_is_applied_becomes_a_branch_and_reaches_a_colleague(quick_copy: Copy, tmp_path: Path) -> None:
    bare_remote(quick_copy, tmp_path / "origin.git")
    quick_copy.dvc("remote", "add", "--default", "--force", "shared", str(tmp_path / "storage"))
    quick_copy.commit()
    quick_copy.run("git", "push", "--quiet", "origin", "main")
    quick_copy.dvc("exp", "run", "--name", "better", "-S", "train.lr=1e-5")
    exported = (quick_copy.root / EXPORT).read_bytes()
    quick_copy.dvc("exp", "push", "origin", "better")  # its commit to git, its data to the storage

    quick_copy.run("git", "checkout", "--quiet", "--", ".")
    quick_copy.dvc("checkout")
    assert (quick_copy.root / EXPORT).read_bytes() != exported
    quick_copy.dvc("exp", "apply", "better")
    assert (quick_copy.root / EXPORT).read_bytes() == exported
    quick_copy.dvc("exp", "branch", "better", "better-branch")
    assert "better-branch" in quick_copy.run("git", "branch").stdout

    quick_copy.run("git", "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "colleague"))
    colleague = Copy(tmp_path / "colleague", quick_copy.environment)
    colleague.dvc("exp", "pull", "origin", "better")
    colleague.dvc("exp", "apply", "better")
    colleague.dvc("pull", "export")
    assert (colleague.root / EXPORT).read_bytes() == exported
    assert float(colleague.params()["train"]["lr"]) == 1e-5


def test_two_clones_share_one_cache(quick_copy: Copy, tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    (quick_copy.root / ".dvc" / "cache").rename(shared)
    quick_copy.run("git", "clone", "--quiet", str(quick_copy.root), str(tmp_path / "second"))
    second = Copy(tmp_path / "second", quick_copy.environment)
    for clone in (quick_copy, second):
        clone.dvc("cache", "dir", "--local", str(shared))
    second.dvc("checkout")
    assert (second.root / EXPORT).read_bytes() == (quick_copy.root / EXPORT).read_bytes()
    assert reran(second) == set()
    quick_copy.set_param("train", "lr", value=1e-5)
    assert "train-fp16" in reran(quick_copy)
    second.set_param("train", "lr", value=1e-5)
    assert reran(second) == set(), "the other clone has run it"


@pytest.mark.parametrize("scope", ["--workspace", "--all-branches"])
def test_gc_keeps_what_is_referenced(quick_copy: Copy, scope: str) -> None:
    on_branch(quick_copy, "slower", 1e-5)
    quick_copy.run("git", "checkout", "--quiet", "main")
    quick_copy.dvc("checkout")
    quick_copy.dvc("gc", scope, "--force")
    assert "up to date" in quick_copy.dvc("status").stdout
    assert reran(quick_copy) == set()
    quick_copy.run("git", "checkout", "--quiet", "slower")
    restored = quick_copy.dvc("checkout", check=False)
    assert (restored.returncode == 0) == (scope == "--all-branches")


def test_another_repository_imports_the_export(quick_copy: Copy, tmp_path: Path) -> None:
    root = tmp_path / "product"
    root.mkdir()
    quick_copy.dvc("push", "export")
    product = Copy(root, quick_copy.environment)
    product.run("git", "init", "--quiet")
    product.dvc("init")
    product.dvc("import", str(quick_copy.root), "models/export", "--out", "model")
    assert (root / "model" / "content").read_bytes() == (quick_copy.root / EXPORT).read_bytes()
    revision = quick_copy.run("git", "rev-parse", "HEAD").stdout.strip()
    assert revision in (root / "model.dvc").read_text(), "it records the commit"


def test_dvc_s_site_cache_can_be_moved_to_the_user_s_home(quick_copy: Copy, tmp_path: Path) -> None:
    """It holds pickles, and by default it is in a folder that everyone can write to."""
    alone = Copy(quick_copy.root, {**quick_copy.environment, "HOME": str(tmp_path)})
    del alone.environment["DVC_SITE_CACHE_DIR"]  # set by the tests
    alone.dvc("config", "--global", "core.site_cache_dir", str(tmp_path / ".cache" / "dvc"))
    alone.dvc("status")
    assert list((tmp_path / ".cache" / "dvc" / "repo").glob("*/*"))
    assert f"Repo.site_cache_dir: {tmp_path}" in alone.dvc("doctor").stdout
