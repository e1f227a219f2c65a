"""The registry of estimators: every one by name, with what is known about it.

``ESTIMATORS["rloo"]`` is an :class:`Entry`: called, it estimates; printed, it says what the
estimator is, what it costs and which paper to cite. Programs choose estimators by name here; code
of your own may as well call the functions of :mod:`gsm.estimators`, which are the same.

An entry of your own joins with ``ESTIMATORS["mine"] = Entry(mine, source=..., ...)``.

The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

import collections
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key

from gsm import distributions, estimators
from gsm.distributions import LogitsND, Scalar
from gsm.estimators import Cost, Surrogate


class Hyperparams(NamedTuple):
    """The hyperparameters that estimators share, as scalars that may be traced.

    Each estimator reads those that it has and ignores the others. None stands for the default of
    the estimator's own function.

    Args:
      temperature: temperature of Gumbel-Softmax; of the gradient for straight-through estimators;
        of the relaxed sample in the control variates of REBAR and RELAX.
      backward_temperature: temperature of the gradient of decoupled Gumbel-Softmax and of ReinMax.
      baseline: subtracted from the learning signal of the score function, NVIL, DARN and MuProp.
      variance: variance of that signal, which is divided by ``max(1, sqrt(variance))``.
      slope: slope of slope-annealed straight-through.
      eta: weight of f in the control variates of REBAR and RELAX.

    Returns:
      A tuple of these, and a JAX pytree.

    Source: the estimators of :mod:`gsm.estimators`.

    Example:
      >>> gsm.Hyperparams(temperature=0.5).temperature
      0.5
    """

    temperature: Scalar | None = None
    backward_temperature: Scalar | None = None
    baseline: Scalar | None = None
    variance: Scalar | None = None
    slope: Scalar | None = None
    eta: Scalar | None = None


Estimator = Callable[[Key[Array, ""], LogitsND, Cost, Hyperparams], Surrogate]
"""An operator that picks its own hyperparameters from the common ones."""

_BIASES = {
    "any": "unbiased for every f",
    "quadratic": "by default unbiased if f is quadratic in each variable, biased otherwise",
    "quadratic in Bernoulli units": "unbiased if f is affine, or quadratic in Bernoulli units; "
    "biased otherwise",
    "affine": "unbiased if f is affine in each variable, biased otherwise",
    "none": "biased",
}
_REQUIRED = inspect.Parameter.empty
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    # Not cached: a partial may hold traced values, which a cache would keep alive.
    return inspect.signature(function).parameters


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, one in parameters.items()
        if one.default is _REQUIRED and one.kind not in several
    ]


def _arguments(
    parameters: Mapping[str, inspect.Parameter], keywords: Iterable[str] = ()
) -> list[str]:
    """What a function is called with by position: key, logits and f, or some of them.

    An operator is known by a parameter ``f``, or by a third one that is required and neither a
    hyperparameter nor given as a keyword; one with ``f`` and one more takes no key: ``exact``.
    """
    others = {*Hyperparams._fields, *keywords}
    if any(one.kind is one.VAR_POSITIONAL for one in parameters.values()):
        return ["key", "logits", "f"]
    required = [
        name
        for name in _required(parameters)
        if parameters[name].kind in _BY_POSITION and name not in others
    ]
    if "f" not in parameters and len(required) < 3:
        return ["key", "logits"]
    return ["logits", "f"] if len(required) < 3 else ["key", "logits", "f"]


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(function: Callable[..., Any]) -> str:
    unwrapped = _unwrapped(function)
    return getattr(unwrapped, "__name__", type(unwrapped).__name__)


def _estimate(
    function: Callable[..., Any], key: Key[Array, ""], logits: LogitsND, f: Cost, **keywords: Any
) -> Surrogate:
    """Call a sampler or an operator, whichever the function is, as an operator."""
    arguments = _arguments(_parameters(function), keywords)
    if "f" not in arguments:
        name = _name(function)
        distributions.check_key(key, name)
        estimators.check_example(logits, name)
        cost = estimators.scalar_cost(f, name, differentiates=True)
        return cost(function(key, logits, **keywords))
    if "key" in arguments:
        return function(key, logits, f, **keywords)
    return function(logits, f, **keywords)


class Entry(NamedTuple):
    """An estimator and what is known about it; the tests verify each fact. Called, it estimates.

    ``entry(key, logits, f, Hyperparams(...))`` is the function with the hyperparameters that it
    reads and its own defaults for the rest. What is not a traced scalar is a keyword of the call:
    ``num_samples`` of those that average several, ``control`` of RELAX, ``where`` of samplers. A
    hyperparameter may be a keyword too, which then counts.

    Args:
      function: a sampler, which stands for ``f(sampler(key, logits))``, or an operator.
      source: authors and year of the paper.
      unbiased: the costs f for which it is unbiased with its defaults: "any", "quadratic" or
        "affine" in each variable, "quadratic in Bernoulli units", or "none".
      choose: when to choose it.
      evaluations: evaluations of f for one estimate: a number, or "k ** n", "n * k + 1", "m"
        samples.
      derivatives: how many of the evaluations are differentiated with respect to z; 0: f may be a
        black box.
      learned: parts that train through the surrogate: baseline, network, variance, eta,
        temperature, control.
      relaxed: whether f sees a point inside the simplex; otherwise it is one-hot.
      bernoulli_only: whether it takes two classes only.
      aliases: other names under which the registry finds it.
      citation: BibTeX of the paper or papers; empty if there is none.

    Returns:
      An immutable record.

    Source: each entry has its own.

    Example:
      >>> entry = gsm.Entry(gsm.rloo, source="Kool et al. 2019", unbiased="any", choose="try it")
      >>> surrogate = entry(jax.random.key(0), jnp.zeros((2, 3)), jnp.sum)
      >>> float(surrogate), entry.num_samples
      (2.0, 4)
    """

    function: Callable[..., Any]
    source: str
    unbiased: str
    choose: str
    evaluations: int | str = 1
    derivatives: int = 0
    learned: tuple[str, ...] = ()
    relaxed: bool = False
    bernoulli_only: bool = False
    aliases: tuple[str, ...] = ()
    citation: str = ""

    def __call__(
        self,
        key: Key[Array, ""],
        logits: LogitsND,
        f: Cost,
        hyperparams: Hyperparams = Hyperparams(),  # noqa: B008, immutable
        **keywords: Any,
    ) -> Surrogate:
        if not isinstance(hyperparams, Hyperparams):
            raise TypeError(
                f"{self.name}: the fourth argument of an entry must be gsm.Hyperparams; got "
                f"{hyperparams!r}. Others are keywords, such as num_samples=8"
            )
        given = {name: getattr(hyperparams, name) for name in self.reads}
        keywords = {name: value for name, value in given.items() if value is not None} | keywords
        parameters = _parameters(self.function)
        for name in _required(parameters)[len(_arguments(parameters, keywords)) :]:
            if name not in keywords:
                ours = _unwrapped(self.function).__module__ == estimators.__name__
                see = f"; see gsm.estimators.{self.name}" if ours else ""
                raise ValueError(f"{self.name} needs {name}{see}")
        return _estimate(self.function, key, logits, f, **keywords)

    @property
    def name(self) -> str:
        """Name of the function."""
        return _name(self.function)

    @property
    def is_sampler(self) -> bool:
        """Whether the function is a sampler with a gradient of its own."""
        return "f" not in _arguments(_parameters(self.function))

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the hyperparameters that it reads."""
        parameters = _parameters(self.function)
        return tuple(name for name in Hyperparams._fields if name in parameters)

    def takes(self, name: str) -> bool:
        """Whether the function has a parameter of that name."""
        return name in _parameters(self.function)

    def default(self, name: str) -> Any:
        """Default of a parameter; None if it has no such parameter, or requires it."""
        parameter = _parameters(self.function).get(name)
        if parameter is None or parameter.default is _REQUIRED:
            return None
        return parameter.default

    @property
    def num_samples(self) -> int | None:
        """Default of the keyword ``num_samples``; None if it has no such keyword."""
        return self.default("num_samples")

    def count_evaluations(self, n: int, k: int, num_samples: int | None = None) -> int:
        """Evaluations of f for one estimate of ``n`` variables with ``k`` classes."""
        formulas = {
            "k ** n": k**n,
            "n * k + 1": n * k + 1,
            "m": num_samples or self.num_samples or 1,
        }
        return self.evaluations if isinstance(self.evaluations, int) else formulas[self.evaluations]

    def __str__(self) -> str:
        title = f"{self.name} (aliases: {', '.join(self.aliases)})" if self.aliases else self.name
        samples = " (m = num_samples)" if self.evaluations == "m" else ""
        derivatives = f"{self.derivatives} differentiated" if self.derivatives else "no derivative"
        parameters = (
            f"{name} (required)"
            if parameter.default is _REQUIRED
            else f"{name}={parameter.default}"
            for name, parameter in _parameters(self.function).items()
            if name not in ("key", "logits", "f", "where")
        )
        facts = {
            "source": self.source,
            "bias": _BIASES.get(self.unbiased, self.unbiased),
            "evaluations of f": f"{self.evaluations}{samples}, {derivatives}",
            "f sees": "points inside the simplex" if self.relaxed else "one-hot samples",
            "classes": "two" if self.bernoulli_only else "any number",
            "parameters": ", ".join(parameters) or "none",
            "learned parts": ", ".join(self.learned) or "none",
            "choose it for": self.choose,
        }
        lines = [title, *(f"  {name + ':':18}{fact}" for name, fact in facts.items())]
        if self.citation:
            lines += ["  citation:", textwrap.indent(self.citation, "    ")]
        return "\n".join(lines)


def entry_of(function: Callable[..., Any]) -> Entry | None:
    """The registry entry that a function is, perhaps with keywords bound by ``partial``, or None.

    Args:
      function: an operator.

    Returns:
      The entry.

    Example:
      >>> gsm.registry.entry_of(gsm.ESTIMATORS["rloo"]).name
      'rloo'
      >>> gsm.registry.entry_of(gsm.rloo) is None
      True
    """
    unwrapped = _unwrapped(function)
    return unwrapped if isinstance(unwrapped, Entry) else None


def operator_of(function: Callable[..., Any]) -> Callable[..., Surrogate]:
    """Make an operator of a sampler, ``f(sampler(key, logits))``; an operator stays itself.

    Args:
      function: an operator, or a sampler that can be called as ``sampler(key, logits)``: an
        operator has a parameter ``f``, or a third argument that is required and no hyperparameter.

    Returns:
      An operator.

    Example:
      >>> operator = gsm.registry.operator_of(gsm.straight_through)
      >>> float(operator(jax.random.key(0), jnp.zeros((2, 3)), jnp.sum))
      2.0
    """
    try:
        parameters = _parameters(function)
    except ValueError:  # builtins may have none
        return function
    arguments = _arguments(parameters)
    return (
        function if arguments == ["key", "logits", "f"] else functools.partial(_estimate, function)
    )


class Registry(collections.UserDict[str, Entry]):
    """Estimators by name; an alias finds its entry, and is not iterated over.

    Args:
      entries: entries by name.

    Raises:
      KeyError: no estimator has the name or alias; the message has the nearest names.

    Example:
      >>> gsm.ESTIMATORS["reinforce"] is gsm.ESTIMATORS["score_function"]
      True
      >>> "reinforce" in gsm.ESTIMATORS, "reinforce" in list(gsm.ESTIMATORS)
      (True, False)
    """

    def _aliases(self) -> dict[str, Entry]:
        return {alias: entry for entry in self.data.values() for alias in entry.aliases}

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in self._aliases()

    def __missing__(self, name: str) -> Entry:
        aliases = self._aliases()
        if name in aliases:
            return aliases[name]
        near = difflib.get_close_matches(str(name), [*self.data, *aliases], cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(self)}"
        raise KeyError(f"unknown estimator {name!r}; {hint}")


def batched(estimator: Callable[..., Surrogate]) -> Callable[..., Float[Array, " b"]]:
    """Map an estimator of one example over a minibatch.

    The result is called as ``batched(estimator)(key, logits, f, *examples, **keywords)``. The key
    is split, one for each example; logits and examples are mapped over their first axis; keywords,
    such as hyperparameters, are passed on and shared: where each example has a baseline of its own,
    write ``jax.vmap(lambda key, logits, c: gsm.nvil(key, logits, f, c))(keys, logits, c)``. Where
    the cost depends on the example itself, give its arrays as ``examples``: f is then called as
    ``f(z, *example)``.

    Args:
      estimator: an operator or a sampler of :mod:`gsm.estimators`, an entry of
        :data:`ESTIMATORS`, or a function of your own with the signature ``(key, logits, f, ...)``.

    Returns:
      A function of ``key``, ``logits [b, n, k]``, ``f`` and ``examples``, each a pytree of arrays
      ``[b, ...]``, that returns the surrogates ``[b]``. Their mean is a loss of the minibatch.

    Raises:
      TypeError: the function gets something that is not a key or not logits.
      ValueError: the function gets logits of another rank or examples of another number.

    Source: none; this is ``jax.vmap`` over ``jax.random.split(key, b)``.

    Example:
      >>> targets = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # one for each of 2 examples
      >>> def f(z, target):
      ...     return jnp.sum((z - target) ** 2)
      >>> def loss(logits, key):
      ...     return jnp.mean(gsm.batched(gsm.rloo)(key, logits, f, targets, num_samples=8))
      >>> jax.grad(loss)(jnp.zeros((2, 4, 3)), jax.random.key(0)).shape
      (2, 4, 3)
      >>> entry = gsm.ESTIMATORS["gumbel_softmax"]
      >>> hyperparams = gsm.Hyperparams(temperature=0.5)
      >>> logits = jnp.zeros((2, 4, 3))
      >>> gsm.batched(entry)(jax.random.key(0), logits, jnp.sum, hyperparams=hyperparams).shape
      (2,)
    """

    def over_examples(key, logits, f, *examples, **keywords):
        distributions.check_key(key, "batched")
        distributions.check_logits(logits, "batched")
        if logits.ndim != 3:
            raise ValueError(
                f"batched: logits must be those of a minibatch, [b, n, k]; got shape {logits.shape}"
            )
        size = logits.shape[0]
        for leaf in jax.tree.leaves(examples):
            if jnp.shape(leaf)[:1] != (size,):
                raise ValueError(
                    f"batched: examples must be arrays [b, ...] with b = {size} as in the logits; "
                    f"got shape {jnp.shape(leaf)}"
                )

        def one(key, logits, example):
            return call(key, logits, lambda z: f(z, *example), **keywords)

        return jax.vmap(one)(random.split(key, size), logits, examples)

    call = estimator
    if not isinstance(estimator, Entry):
        call = functools.partial(_estimate, estimator)
    return over_examples


_JANG = """\
@inproceedings{jang2017categorical,
  title     = {Categorical Reparameterization with {Gumbel-Softmax}},
  author    = {Jang, Eric and Gu, Shixiang and Poole, Ben},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}"""

_ENTRIES = (
    Entry(
        estimators.exact,
        source="enumeration",
        unbiased="any",
        choose="so few outcomes that all of them can be evaluated",
        evaluations="k ** n",
        aliases=("marginalisation", "enumeration"),
    ),
    Entry(
        estimators.score_function,
        source="Williams 1992",
        unbiased="any",
        choose="a black box f, where one evaluation is all that can be paid",
        learned=("baseline", "variance"),
        aliases=("reinforce",),
        citation="""\
@article{williams1992simple,
  title   = {Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
             Learning},
  author  = {Williams, Ronald J.},
  journal = {Machine Learning},
  volume  = {8},
  pages   = {229--256},
  year    = {1992}
}""",
    ),
    Entry(
        estimators.nvil,
        source="Mnih & Gregor 2014",
        unbiased="any",
        choose="what score_function is for, where the cost differs much from input to input",
        learned=("baseline", "network", "variance"),
        citation="""\
@inproceedings{mnih2014neural,
  title     = {Neural Variational Inference and Learning in Belief Networks},
  author    = {Mnih, Andriy and Gregor, Karol},
  booktitle = {International Conference on Machine Learning},
  year      = {2014}
}""",
    ),
    Entry(
        estimators.darn,
        source="Gregor et al. 2014",
        unbiased="quadratic in Bernoulli units",
        choose="comparison with the paper; Bernoulli units (of more classes it may diverge)",
        derivatives=1,
        learned=("baseline", "variance"),
        citation="""\
@inproceedings{gregor2014deep,
  title     = {Deep AutoRegressive Networks},
  author    = {Gregor, Karol and Danihelka, Ivo and Mnih, Andriy and Blundell, Charles and
               Wierstra, Daan},
  booktitle = {International Conference on Machine Learning},
  year      = {2014}
}""",
    ),
    Entry(
        estimators.muprop,
        source="Gu et al. 2016",
        unbiased="any",
        choose="an unbiased gradient at two evaluations, for f close to linear",
        evaluations=2,
        derivatives=1,
        learned=("baseline", "variance"),
        citation="""\
@inproceedings{gu2016muprop,
  title     = {{MuProp}: Unbiased Backpropagation for Stochastic Neural Networks},
  author    = {Gu, Shixiang and Levine, Sergey and Sutskever, Ilya and Mnih, Andriy},
  booktitle = {International Conference on Learning Representations},
  year      = {2016}
}""",
    ),
    Entry(
        estimators.straight_through,
        source="Bengio et al. 2013",
        unbiased="affine",
        choose="the simplest baseline, with nothing to tune",
        derivatives=1,
        aliases=("st", "ste"),
        citation="""\
@article{bengio2013estimating,
  title   = {Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
             Computation},
  author  = {Bengio, Yoshua and L{\\'e}onard, Nicholas and Courville, Aaron},
  journal = {arXiv preprint arXiv:1308.3432},
  year    = {2013}
}""",
    ),
    Entry(
        estimators.slope_annealed_st,
        source="Chung et al. 2017",
        unbiased="none",
        choose="comparison with the paper; a steeper slope is more biased",
        derivatives=1,
        citation="""\
@inproceedings{chung2017hierarchical,
  title     = {Hierarchical Multiscale Recurrent Neural Networks},
  author    = {Chung, Junyoung and Ahn, Sungjin and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}""",
    ),
    Entry(
        estimators.gumbel_softmax,
        source="Jang et al. 2017; Maddison et al. 2017",
        unbiased="none",
        choose="an f that makes sense inside the simplex; low variance, and the bias falls with "
        "the temperature",
        derivatives=1,
        relaxed=True,
        aliases=("concrete", "gsm"),
        citation=_JANG
        + """
@inproceedings{maddison2017concrete,
  title     = {The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables},
  author    = {Maddison, Chris J. and Mnih, Andriy and Teh, Yee Whye},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}""",
    ),
    Entry(
        estimators.decoupled_gumbel_softmax,
        source="Shah et al. 2024",
        unbiased="none",
        choose="an f that needs nearly one-hot samples, and a gradient of a higher temperature",
        derivatives=1,
        relaxed=True,
        citation="""\
@article{shah2024improving,
  title   = {Improving Discrete Optimisation Via Decoupled Straight-Through Estimator},
  author  = {Shah, Rushi and Yan, Mingyuan and Mozer, Michael Curtis and Liu, Dianbo},
  journal = {arXiv preprint arXiv:2410.13331},
  year    = {2024}
}""",
    ),
    Entry(
        estimators.st_gumbel_softmax,
        source="Jang et al. 2017",
        unbiased="none",
        choose="an f that must see one-hot samples; gumbel_rao has the same mean and less variance",
        derivatives=1,
        aliases=("stgs",),
        citation=_JANG,
    ),
    Entry(
        estimators.rloo,
        source="Kool et al. 2019",
        unbiased="any",
        choose="a black box f that can be evaluated several times",
        evaluations="m",
        aliases=("loorf", "vargrad", "multi_sample_reinforce"),
        citation="""\
@inproceedings{kool2019buy,
  title     = {Buy 4 {REINFORCE} Samples, Get a Baseline for Free!},
  author    = {Kool, Wouter and van Hoof, Herke and Welling, Max},
  booktitle = {ICLR Workshop on Deep Reinforcement Learning Meets Structured Prediction},
  year      = {2019}
}""",
    ),
    Entry(
        estimators.rebar,
        source="Tucker et al. 2017",
        unbiased="any",
        choose="an unbiased gradient of an f that makes sense inside the simplex; compare with "
        "rloo",
        evaluations=3,
        derivatives=2,
        learned=("eta", "temperature"),
        citation="""\
@inproceedings{tucker2017rebar,
  title     = {{REBAR}: Low-variance, unbiased gradient estimates for discrete latent variable
               models},
  author    = {Tucker, George and Mnih, Andriy and Maddison, Chris J. and Lawson, John and
               Sohl-Dickstein, Jascha},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {30},
  year      = {2017}
}""",
    ),
    Entry(
        estimators.relax,
        source="Grathwohl et al. 2018",
        unbiased="any",
        choose="what rebar is for, with a network beside f; with eta=None also a black box f",
        evaluations=3,
        derivatives=2,
        learned=("eta", "temperature", "control"),
        citation="""\
@inproceedings{grathwohl2018backpropagation,
  title     = {Backpropagation through the Void: Optimizing control variates for black-box
               gradient estimation},
  author    = {Grathwohl, Will and Choi, Dami and Wu, Yuhuai and Roeder, Geoffrey and
               Duvenaud, David},
  booktitle = {International Conference on Learning Representations},
  year      = {2018}
}""",
    ),
    Entry(
        estimators.gumbel_rao,
        source="Paulus et al. 2021",
        unbiased="none",
        choose="an expensive f that must see one-hot samples",
        derivatives=1,
        aliases=("grmck",),
        citation="""\
@inproceedings{paulus2021rao,
  title     = {Rao-{Blackwellizing} the Straight-Through {Gumbel-Softmax} Gradient Estimator},
  author    = {Paulus, Max B. and Maddison, Chris J. and Krause, Andreas},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}""",
    ),
    Entry(
        estimators.reinmax,
        source="Liu et al. 2023; Shekhovtsov 2023",
        unbiased="quadratic",
        choose="an f that must see one-hot samples, where bias matters more than variance",
        derivatives=1,
        aliases=("zgr",),
        citation="""\
@inproceedings{liu2023bridging,
  title     = {Bridging Discrete and Backpropagation: Straight-Through and Beyond},
  author    = {Liu, Liyuan and Dong, Chengyu and Liu, Xiaodong and Yu, Bin and Gao, Jianfeng},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023}
}
@inproceedings{shekhovtsov2023cold,
  title     = {Cold Analysis of {Rao-Blackwellized} Straight-Through {Gumbel-Softmax} Gradient
               Estimator},
  author    = {Shekhovtsov, Alexander},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}""",
    ),
    Entry(
        estimators.gapped_straight_through,
        source="Fan et al. 2022",
        unbiased="none",
        choose="what straight_through is for, with a gradient that depends on the class drawn",
        derivatives=1,
        aliases=("gst",),
        citation="""\
@inproceedings{fan2022training,
  title     = {Training Discrete Deep Generative Models via Gapped Straight-Through Estimator},
  author    = {Fan, Ting-Han and Chi, Ta-Chung and Rudnicky, Alexander I. and
               Ramadge, Peter J.},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
    ),
    Entry(
        estimators.redge,
        source="Gourevitch et al. 2026",
        unbiased="affine",
        choose="comparison; by default it hardly differs from straight_through",
        derivatives=1,
        citation="""\
@article{gourevitch2026categorical,
  title   = {Categorical Reparameterization with Denoising Diffusion Models},
  author  = {Gourevitch, Samson and Durmus, Alain and Moulines, Eric and Olsson, Jimmy and
             Janati, Yazid},
  journal = {arXiv preprint arXiv:2601.00781},
  year    = {2026}
}""",
    ),
    Entry(
        estimators.disarm,
        source="Dong et al. 2020; Yin et al. 2020",
        unbiased="any",
        choose="Bernoulli units and a black box f",
        evaluations=2,
        bernoulli_only=True,
        aliases=("u2g",),
        citation="""\
@inproceedings{dong2020disarm,
  title     = {{DisARM}: An Antithetic Gradient Estimator for Binary Latent Variables},
  author    = {Dong, Zhe and Mnih, Andriy and Tucker, George},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {33},
  year      = {2020}
}
@article{yin2020probabilistic,
  title   = {Probabilistic Best Subset Selection via Gradient-Based Optimization},
  author  = {Yin, Mingzhang and Ho, Nhat and Yan, Bowei and Qian, Xiaoning and Zhou, Mingyuan},
  journal = {arXiv preprint arXiv:2006.06448},
  year    = {2020}
}""",
    ),
    Entry(
        estimators.arms,
        source="Dimitriev & Zhou 2021",
        unbiased="any",
        choose="Bernoulli units and a black box f that can be evaluated several times",
        evaluations="m",
        bernoulli_only=True,
        citation="""\
@inproceedings{dimitriev2021arms,
  title     = {{ARMS}: Antithetic-{REINFORCE}-Multi-Sample Gradient for Binary Variables},
  author    = {Dimitriev, Aleksandar and Zhou, Mingyuan},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    ),
    Entry(
        estimators.local_expectation,
        source="Titsias & Lázaro-Gredilla 2015",
        unbiased="any",
        choose="little variance without a bias, where n k + 1 evaluations can be paid",
        evaluations="n * k + 1",
        aliases=("rao_blackwellised",),
        citation="""\
@inproceedings{titsias2015local,
  title     = {Local Expectation Gradients for Black Box Variational Inference},
  author    = {Titsias, Michalis K. and L{\\'a}zaro-Gredilla, Miguel},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {28},
  year      = {2015}
}""",
    ),
)
ESTIMATORS = Registry({entry.name: entry for entry in _ENTRIES})
"""Every estimator by name: ``ESTIMATORS[name](key, logits, f, Hyperparams(...)) -> surrogate``."""

RELAXED = frozenset(name for name, entry in ESTIMATORS.items() if entry.relaxed)
"""The estimators whose sample is a point inside the simplex; that of all others is one-hot."""

BERNOULLI_ONLY = frozenset(name for name, entry in ESTIMATORS.items() if entry.bernoulli_only)
"""The estimators that are for two classes."""
