"""What Python code reads, on whichever version of Python runs."""

import pytest

from perigee._step.bytecode import names_in, reads, unpacked

CODES = {
    "globals and attributes": (
        "def f(x): return model(x) + cfg.a.b",
        "outside cfg.a.b, outside model",
    ),
    "a closure": (
        """
def make(model):
    def f(x): return model.net(x)
    return f
f = make(1)
""",
        "outside model.net",
    ),
    "parameters": (
        "def f(self, x): return self.net.enc(x) + self.opt(self)",
        "local self, local self.net.enc, local self.opt",
    ),
    "two variables at once": (
        "def f(a, b): return g(a, b) + a.p + b.q",
        "local a.p, local b.q, outside g",
    ),
    "a variable set and another read at once": (
        """
def f(a, b):
    t = a
    return t.x + b.y
""",
        "local b.y, local t.x",
    ),
    "a parameter in a function inside": (
        """
def f(x, model=1):
    def loss(): return model.net(x) + head(x)
    return loss()
""",
        "local model.net, outside head",
    ),
    "a name that a function inside hides": (
        """
def f(model):
    def g(model): return (lambda: model.inner)()
    return g(other), model.outer
""",
        "local model.outer, outside other",
    ),
    "comprehensions": (
        "def f(ys): return [n.a for n in models], {k: nets[k] for k in all_}, [gen(y) for y in ys]",
        "outside gen, outside models, outside all_, outside nets",
    ),
    "imports": (
        """
def f(x):
    import a.b
    import a.b.c as d
    from m import net as n, other
    from . import rel
    from ..up import z
    return a.b.q + d.r + n.s + other(x) + rel.t + z.u
""",
        "import a.b.q from a, import d.r from a.b.c, import n.s from m net, "
        "import other from m other, import rel.t from . rel, import z.u from ..up z",
    ),
    "an import for a function inside": (
        """
def f(x):
    from m import net
    def g(): return net.k(x)
    return g()
""",
        "import net.k from m net",
    ),
    "an import inside a function inside": (
        """
def f(x):
    def g():
        import m
        return m.net
    return g()
""",
        "import m.net from m",
    ),
    "a class inside": (
        """
def f(x):
    class Layer:
        base = model.v
        def go(self): return inner.w
    return Layer
""",
        "outside inner.w, outside model.v",
    ),
    "match and with": (
        """
def f(x):
    with tape.scope() as t:
        match cfg.kind:
            case "a": return ma.x
            case Case(net=n): return (y := n(x))
""",
        "outside Case, outside cfg.kind, outside ma.x, outside tape.scope",
    ),
    "nonlocal": (
        """
def make():
    n = 0
    def f(x):
        nonlocal n
        n += 1
        return model.q
    return f
f = make()
""",
        "outside model.q, outside n",
    ),
    "calls and items between": (
        "def f(x): return a.b.c(x).d.e + g['k'].h",
        "outside a.b.c, outside g",
    ),
    "constants that are empty tuples": (
        "def f(x, y): return (x.a, (), y.b)",
        "local x.a, local y.b",
    ),
}


def code_of(source):
    space = {}
    exec(source, space)
    return space["f"].__code__


@pytest.mark.once
@pytest.mark.parametrize("name", CODES)
def test_names_are_read_with_the_attributes_that_follow(name):
    source, expected = CODES[name]
    found = {
        f"{read.root} {'.'.join(read.names)}"
        + (" from " if read.origin else "")
        + " ".join(read.origin)
        for read in reads(code_of(source))
    }

    # Bare locals are read or not, as the version of Python has it; nothing can be found by them.
    meant = {each.strip() for each in expected.split(",")}
    bare = {each for each in found if each.startswith("local") and "." not in each}
    assert found - (bare - meant) - {"outside __name__", "local n.a"} == meant


@pytest.mark.once
def test_names_of_super_are_attributes():
    code = code_of(
        """
class Net:
    def f(self, x):
        getattr(self, "by_name")
        super().call(x)
        self.count = 1
        global total
        total = x
f = Net.f
"""
    )
    names = names_in(code)

    assert names.attributes >= {"call", "by_name"}
    assert names.outside >= {"getattr", "super"}
    assert "total" in names.stored


@pytest.mark.once
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x, _ = batch", ["x", "_"]),
        ("x, _ = batch; return x", ["x", "_"]),
        ("(a, b), y = batch; return lambda: a", ["a", "b", "y"]),
        ("*x, y = batch", ["x", "y"]),
        ("x, _ = self.minimize(batch)", None),
        ("x = batch", None),
    ],
)
def test_names_that_a_variable_is_unpacked_into(line, expected):
    code = code_of(f"def f(self, batch): {line}")

    assert list(unpacked(code, "batch")) == ([] if expected is None else [expected])
