"""The import of torchvision: cured where its operators do not load, left alone everywhere else."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *paths: Path) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, warnings as errors, with extra import paths before everything else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def package(folder: Path, init: str) -> Path:
    """A stand-in for torchvision with one submodule, imported before ``init`` runs."""
    home = folder / "torchvision"
    home.mkdir()
    (home / "part.py").write_text("")
    (home / "__init__.py").write_text("from torchvision import part\n" + textwrap.dedent(init))
    return folder


def test_the_installed_torchvision_imports_and_works():
    result = python(
        """
        from zoo._torchvision import torchvision
        module = torchvision()
        import sys, torch, torchvision as plain
        from torchvision.transforms import v2
        assert module is plain is torchvision() is sys.modules["torchvision"]
        resized = v2.functional.resize(torch.zeros(3, 8, 8), [4, 4], antialias=True)
        assert resized.shape == (3, 4, 4)
        with torch.device("meta"):
            assert module.models.resnet18(weights=None).fc.out_features == 1000
        assert module.datasets.MNIST
        import timm
        assert timm.is_model("resnet18")
        """
    )
    assert result.returncode == 0, result.stderr


def test_nothing_is_imported_before_the_call():
    result = python("import sys, zoo._torchvision; assert not {'torch', 'torchvision'} & set(sys.modules)")
    assert result.returncode == 0, result.stderr


def test_a_torchvision_that_loads_is_left_alone(tmp_path):
    result = python(
        """
        import sys
        import zoo._torchvision as cure
        module = cure.torchvision()
        assert module.mark == 1 and cure._declared == []
        assert "torch" not in sys.modules  # so nothing can have been declared
        """,
        package(tmp_path, "mark = 1"),
    )
    assert result.returncode == 0, result.stderr


def test_missing_operators_are_declared_and_half_imported_modules_dropped(tmp_path):
    init = """
        import torch
        torch._tries = getattr(torch, "_tries", []) + [part]
        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("operator torchvision::nms does not exist")
    """
    result = python(
        """
        import torch
        import zoo._torchvision as cure
        module = cure.torchvision()
        for name in ("nms", "qnms"):
            schema = str(getattr(torch.ops.torchvision, name).default._schema)
            assert schema == f"torchvision::{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        first, second = torch._tries
        assert second is not first and module.part is second
        assert cure.torchvision() is module and len(torch._tries) == 2 and len(cure._declared) == 1
        """,
        package(tmp_path, init),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "statement, error",
    [
        ("raise RuntimeError('operator torchvision::other is broken')", "RuntimeError"),
        ("raise ImportError('no such library')", "ImportError"),
    ],
)
def test_other_failures_pass_through(tmp_path, statement, error):
    result = python(
        f"""
        import sys
        import zoo._torchvision as cure
        try:
            cure.torchvision()
        except {error}:
            assert cure._declared == [] and "torch" not in sys.modules
        else:
            raise AssertionError("no error")
        """,
        package(tmp_path, statement),
    )
    assert result.returncode == 0, result.stderr
