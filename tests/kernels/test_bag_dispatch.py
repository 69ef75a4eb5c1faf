"""Claims about dispatch: compile, export, autocast, DDP, and a machine without Triton."""

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import sse_kernels as k
import torch

from tests.helpers.kernels_cases import assert_right, assert_same, bounds, leaves, problem, run
from tests.helpers.tolerances import assert_within

P = problem([3, 0, 5, 1, 9])
PLAN = k.plan_bags(P.ids, P.offsets, 11)


@pytest.fixture(autouse=True)
def no_graph_of_another_test():
    torch.compiler.reset()


def subprocess_python(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EMPTY = problem([0, 0])
CASES = {
    "unplanned": (P, {}),
    "planned": (P, {"plan": PLAN}),
    "empty": (EMPTY, {}),
    "no-token-planned": (EMPTY, {"plan": k.plan_bags(EMPTY.ids, EMPTY.offsets, 11)}),
}


def compiled_run(p, backend, dynamic=None, **options):
    w, *gate = leaf = leaves(p)
    op = torch.compile(k.bag_dyt, fullgraph=True, backend=backend, dynamic=dynamic)
    y = op(w, p.ids, p.offsets, *gate, **options)
    y.backward(p.dy)
    return [y.detach(), *(t.grad for t in leaf)]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", CASES)
def test_compiles_in_one_graph_with_gradients(case, dynamic):
    p, options = CASES[case]
    assert_same(compiled_run(p, "aot_eager", dynamic, **options), run(p))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bf16", "f64"])
def test_compiles_in_other_dtypes(dtype):
    p = P.to(dtype)
    assert_same(compiled_run(p, "aot_eager"), run(p))


def test_the_mean_compiles_and_its_graph_serves_another_batch():
    op = torch.compile(k.bag_mean, fullgraph=True, backend="aot_eager", dynamic=True)
    for p in (P, problem([2, 7])):
        w = leaves(p)[0]
        y = op(w, p.ids, p.offsets)
        y.backward(p.dy)
        assert_same([y.detach(), w.grad], run(p, gated=False))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_ids_changed_in_place_before_the_backward_pass_are_an_error(compiled):
    op = torch.compile(k.bag_dyt, fullgraph=True, backend="aot_eager") if compiled else k.bag_dyt
    w, *gate = leaves(P)
    ids = P.ids.clone()
    y = op(w, ids, P.offsets, *gate)
    ids.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_weight_changed_in_place_before_a_compiled_backward_pass_is_an_error():
    op = torch.compile(k.bag_dyt, fullgraph=True, backend="aot_eager")
    w, *gate = leaves(P)
    y = op(w, P.ids, P.offsets, *gate)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_with_inductor():
    assert_right("bag inductor", compiled_run(P, "inductor"), P)


def test_table_grad_is_refused_by_compile():
    op = torch.compile(k.bag_mean, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="table_grad"):
        op(leaves(P)[0], P.ids, P.offsets, table_grad=k.TableGrad())


def test_exports_with_a_dynamic_batch():
    class Encoder(torch.nn.Module):
        def forward(self, weight, ids, offsets):
            return k.bag_dyt(weight, ids, offsets, *P.gate)

    dim = torch.export.Dim.DYNAMIC
    shapes = {"weight": None, "ids": {0: dim}, "offsets": {0: dim}}
    program = torch.export.export(Encoder(), (P.weight, P.ids, P.offsets), dynamic_shapes=shapes)
    q = problem([2, 7])
    got = program.module()(P.weight, q.ids, q.offsets)
    assert torch.equal(got, k.bag_dyt(P.weight, q.ids, q.offsets, *P.gate))


def test_meta_tensors_give_shapes():
    meta = [t.to("meta") for t in (P.weight, P.ids, P.offsets, *P.gate)]
    y = k.bag_dyt(*meta)
    assert y.shape == (5, 7) and y.is_meta


def test_autocast_changes_no_bit():
    expected = run(P)
    with torch.autocast("cpu", torch.bfloat16):
        w, *gate = leaf = leaves(P)
        y = k.bag_dyt(w, P.ids, P.offsets, *gate)
    y.backward(P.dy)
    assert_same([y.detach(), *(t.grad for t in leaf)], expected)


class Model(torch.nn.Module):
    """A table and its gate, with a TableGrad that DDP must not be fooled by."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(P.weight.clone())
        self.gate = torch.nn.ParameterList(p.clone() for p in P.gate)
        self.table_grad = k.TableGrad()

    def forward(self, ids, offsets):
        return k.bag_dyt(self.weight, ids, offsets, *self.gate, table_grad=self.table_grad)


def ddp_worker(rank, store, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(Model())
    for _ in range(2):  # the second pass fails where the first left a gradient out
        model.zero_grad()
        p = problem([3, 4], seed=rank)
        model(p.ids, p.offsets).backward(p.dy)
    torch.save([p.grad for p in model.parameters()], f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ddp_processes_average_the_gradients(tmp_path):
    store = f"file://{tmp_path}/store"
    torch.multiprocessing.spawn(ddp_worker, (store, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_same(first, second)
    model = Model()
    tolerances = [0.0] * 4
    for rank in range(2):
        p = problem([3, 4], seed=rank)
        model(p.ids, p.offsets).backward(p.dy)
        used = replace(p, weight=P.weight, gate=P.gate)
        tolerances = [t + b for t, b in zip(tolerances, bounds(used)[1:], strict=True)]
    for got, own, tolerance in zip(first, model.parameters(), tolerances, strict=True):
        assert_within("bag ddp", got, own.grad / 2, tolerance)


def test_works_where_triton_is_not_installed():
    out = subprocess_python(
        """
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "triton":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Block())
        import torch, sse_kernels as k
        w = torch.randn(9, 4, requires_grad=True)
        gate = [torch.ones(4) for _ in range(3)]
        ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3])
        k.bag_dyt(w, ids, offsets, *gate).sum().backward()
        assert w.grad.abs().sum() > 0
        try:
            k.bag_dyt(w, ids, offsets, *gate, backend="triton")
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install triton" in out


def test_the_cpu_path_does_not_import_triton():
    code = """
        import sys, torch
        before = "triton" in sys.modules
        import sse_kernels as k
        k.bag_mean(torch.randn(9, 4), torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))
        print(before or "triton" not in sys.modules, "sse" in sys.modules)
    """
    assert subprocess_python(code).split() == ["True", "False"]


def test_triton_on_the_cpu_outside_of_its_interpreter_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        k.bag_mean(P.weight, P.ids, P.offsets, backend="triton")
