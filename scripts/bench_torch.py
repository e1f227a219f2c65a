"""Models of configs in PyTorch, to compare speed with. Needs the extra ``bench``.

Each has the networks, the loss, the noise and Adam of ours, for Gumbel-Softmax (tests hold losses
and gradients equal at equal parameters and noise), and is written as PyTorch's users would for
speed: data in memory, one logistic number for two Gumbels, the fused Adam, ``torch.compile``.

The convolutional model: channels last, labelled and unlabelled images through each network in one
pass. The class joins the encoder as constant channels of its image. In the decoder images stand
mirrored, so that no output of a transposed convolution has to be cropped; up to that relabelling
of weights the networks are the same.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch._dynamo
from torch import nn
from torch.nn import functional

# The ninth program of one line of code would run as it is written, as slow as eager: an error, and
# each model's compiled forms start anew.
torch._dynamo.config.fail_on_recompile_limit_hit = True

# --- linear maps and hidden layers: categorical and Bernoulli VAEs, structured prediction ---------


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Latent(nn.Module):
    """What the models with categorical latents share; two classes are units with one logit."""

    def __init__(self, num_latents: int, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.size = num_latents * (num_classes if num_classes > 2 else 1)

    def noise(self, number: int) -> torch.Tensor:
        """Gumbel noise ``[number, n, k]``, or logistic noise ``[number, n]`` of units."""
        if self.num_classes == 2:
            return torch.rand(number, self.size).logit_()
        shape = number, self.size // self.num_classes, self.num_classes
        return -torch.empty(shape).exponential_().log_()

    def relaxed(self, free: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
        """Gumbel-Softmax samples ``[b, l]`` from a network's output ``[b, l]``."""
        if self.num_classes == 2:
            return torch.sigmoid((free + noise) / temperature)
        return ((free.view(noise.shape) + noise) / temperature).softmax(-1).flatten(1)

    def classes(self, free: torch.Tensor, number: int) -> torch.Tensor:
        """Hard samples of one row of logits ``[l]``, or one of each ``[number, l]``.

        Classes ``[number, n]`` by inversion; of units the sample itself, as floats.
        """
        if self.num_classes == 2:
            return (torch.rand(number, self.size) < torch.sigmoid(free)).float()
        cumulative = free.view(*free.shape[:-1], -1, self.num_classes).softmax(-1).cumsum(-1)
        uniform = torch.rand(number, cumulative.shape[-2], 1)
        return (uniform > cumulative[..., :-1]).sum(-1)

    def after(self, layer: nn.Linear, hard: torch.Tensor, lookup: bool) -> torch.Tensor:
        """A linear map of hard samples: a sum of rows looked up, or a product with one-hots."""
        if self.num_classes == 2:
            return layer(hard)
        if not lookup:
            return layer(functional.one_hot(hard, self.num_classes).flatten(1).float())
        rows = hard + self.num_classes * torch.arange(hard.shape[1])
        return functional.embedding_bag(rows, layer.weight.t(), mode="sum") + layer.bias


def _log_likelihood(pixels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return pixels @ x - functional.softplus(pixels).sum(-1)


class VAE(Latent):
    """``CategoricalVAE`` with its loss: analytic KL, learned prior, centred inputs."""

    def __init__(self, num_latents: int, num_classes: int, hidden: Sequence[int], pixels: int):
        super().__init__(num_latents, num_classes)
        self.encoder = _mlp([pixels, *hidden, self.size])
        self.decoder = _mlp([self.size, *hidden[::-1], pixels])
        self.prior = nn.Parameter(torch.zeros(self.size))
        self.register_buffer("center", torch.zeros(pixels))

    def loss(
        self, x: torch.Tensor, noises: Sequence[torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Mean loss of images ``[b, d]``, in nats."""
        free = self.encoder(x - self.center)
        pixels = self.decoder(self.relaxed(free, noises[0], temperature))
        cost = functional.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        return (cost + self.rate(free)) / len(x)

    def rate(self, free: torch.Tensor) -> torch.Tensor:
        """``KL[q(z | x) || p(z)]``, summed over the rows."""
        if self.num_classes == 2:
            normalisers = functional.softplus(self.prior) - functional.softplus(free)
            return (torch.sigmoid(free) * (free - self.prior) + normalisers).sum()
        log_q, log_p = self.log_probs(free), self.log_probs(self.prior)
        return (log_q.exp() * (log_q - log_p)).sum()

    def log_probs(self, free: torch.Tensor) -> torch.Tensor:
        """Logarithms of class probabilities ``[..., n, k]``."""
        return free.view(*free.shape[:-1], -1, self.num_classes).log_softmax(-1)

    def bound(self, x: torch.Tensor, num_samples: int, lookup: bool) -> torch.Tensor:
        """Multi-sample bound of one image ``[d]``, in nats."""
        free = self.encoder(x - self.center)
        z = self.classes(free, num_samples)
        first, *others = self.decoder
        pixels = self.after(first, z, lookup)
        for layer in others:
            pixels = layer(pixels)
        if self.num_classes == 2:
            normalisers = functional.softplus(free) - functional.softplus(self.prior)
            log_ratio = z @ (self.prior - free) + normalisers.sum()
        else:
            ratios = self.log_probs(self.prior) - self.log_probs(free)
            log_ratio = ratios.expand(num_samples, -1, -1).gather(2, z[..., None]).sum((1, 2))
        log_weights = _log_likelihood(pixels, x) + log_ratio
        return log_weights.logsumexp(0) - torch.tensor(num_samples).log()


class StructuredNetwork(Latent):
    """``StructuredNetwork`` with its loss: the lower half of an image from the upper one."""

    def __init__(self, num_latents: int, num_classes: int, layers: int, pixels: int):
        super().__init__(num_latents, num_classes)
        self.given = pixels // 2
        widths = [self.given] + [self.size] * layers
        self.maps = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.decoder = nn.Linear(self.size, pixels - self.given)
        self.register_buffer("center", torch.zeros(self.given))

    def loss(
        self, x: torch.Tensor, noises: Sequence[torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Mean loss of images ``[b, d]``, in nats, given noise for each layer."""
        h, y = x[:, : self.given] - self.center, x[:, self.given :]
        for layer, noise in zip(self.maps, noises, strict=True):
            h = self.relaxed(layer(h), noise, temperature)
        cost = functional.binary_cross_entropy_with_logits(self.decoder(h), y, reduction="sum")
        return cost / len(x)

    def bound(self, x: torch.Tensor, num_samples: int, lookup: bool) -> torch.Tensor:
        """Multi-sample bound of one image ``[d]``, in nats."""
        first, *others = self.maps
        z = self.classes(first(x[: self.given] - self.center), num_samples)
        for layer in others:
            z = self.classes(self.after(layer, z, lookup), num_samples)
        pixels = self.after(self.decoder, z, lookup)
        log_weights = _log_likelihood(pixels, x[self.given :])
        return log_weights.logsumexp(0) - torch.tensor(num_samples).log()


def model_of(config, pixels: int = 784) -> VAE | StructuredNetwork:
    """The model of a config of the tasks ``vae`` and ``sbn``."""
    sizes = config.model.num_latents, config.model.num_classes
    if config.task == "vae":
        return VAE(*sizes, config.model.hidden_sizes, pixels)
    return StructuredNetwork(*sizes, config.model.num_layers, pixels)


def training_ways(config, steps: int) -> dict[str, Callable[[], None]]:
    """Calls that train ``steps`` steps, by how: eager, the loss compiled, whole steps compiled."""
    torch.compiler.reset()
    images = (torch.rand(50_000, 784) < 0.125).to(torch.uint8)
    layers = config.model.get("num_layers", 1)
    number, temperature = config.batch_size, config.temperature.initial

    def train(compiled: bool) -> Callable[[], None]:
        model = model_of(config)
        optimizer = torch.optim.Adam(model.parameters(), config.optimizer.learning_rate, fused=True)
        loss = torch.compile(model.loss) if compiled else model.loss

        def call() -> None:
            for _ in range(steps):
                x = images[torch.randint(len(images), (number,))].float()
                noises = [model.noise(number) for _ in range(layers)]
                optimizer.zero_grad(set_to_none=True)
                loss(x, noises, temperature).backward()
                optimizer.step()

        return call

    ways = {"eager": train(False), "compiled": train(True)}
    for chunk in (1, 4):
        ways[f"compiled whole, {chunk} at once"] = _whole(
            model_of(config), images, number, layers, temperature,
            config.optimizer.learning_rate, steps, chunk,
        )  # fmt: skip
    return ways


def _whole(model, images, number, layers, temperature, rate, steps, chunk) -> Callable[[], None]:
    """Minibatch, noise, gradient and Adam of ``chunk`` steps as one compiled program."""
    params = {name: value.detach() for name, value in model.named_parameters()}
    state = [params, *({n: torch.zeros_like(p) for n, p in params.items()} for _ in "mv")]

    def loss(params, x, noises):
        return torch.func.functional_call(model, params, (x, noises, temperature))

    model.forward = model.loss

    def step(params, means, squares, time):
        x = images[torch.randint(len(images), (number,))].float()
        noises = [model.noise(number) for _ in range(layers)]
        gradient = torch.func.grad(loss)(params, x, noises)
        means = {n: 0.9 * m + 0.1 * gradient[n] for n, m in means.items()}
        squares = {n: 0.999 * v + 0.001 * gradient[n] ** 2 for n, v in squares.items()}
        first, second = 1 - 0.9**time, 1 - 0.999**time
        params = {
            n: p - rate * (means[n] / first) / ((squares[n] / second).sqrt() + 1e-8)
            for n, p in params.items()
        }
        return params, means, squares

    @torch.compile
    def steps_of_chunk(params, means, squares, time):
        for _ in range(chunk):
            time = time + 1
            params, means, squares = step(params, means, squares, time)
        return params, means, squares, time

    state.append(torch.tensor(0.0))

    def call() -> None:
        nonlocal state
        for _ in range(steps // chunk):
            state = steps_of_chunk(*state)

    return call


def bound_ways(config, number: int, num_samples: int = 1_000) -> dict[str, Callable[[], None]]:
    """Calls that compute the bound of ``number`` images, by how the samples meet the first map."""
    torch.compiler.reset()
    images = (torch.rand(number, 784) < 0.125).float()
    model = model_of(config).requires_grad_(False)

    def ways(lookup: bool, compiled: bool) -> Callable[[], None]:
        bound = torch.compile(model.bound) if compiled else model.bound
        return lambda: [bound(image, num_samples, lookup) for image in images]

    forms = {"one-hot product": False}
    if model.num_classes > 2:
        forms["embedding_bag"] = True
    return {
        f"{name}, {'compiled' if compiled else 'eager'}": ways(lookup, compiled)
        for name, lookup in forms.items()
        for compiled in (False, True)
    }


# --- convolutions: the semi-supervised classifier ------------------------------------------------


class Convolutions(nn.Module):
    """Twin of ``ConvolutionalEncoder``: halving convolutions with "SAME" zeros."""

    def __init__(self, inputs: int, channels: Sequence[int], outputs: int, side: int = 28):
        super().__init__()
        self.layers = nn.ModuleList()
        self.padding = []
        for width in channels:
            total = max((-(-side // 2) - 1) * 2 + 5 - side, 0)
            self.padding.append((total // 2, total - total // 2) * 2)
            self.layers.append(nn.Conv2d(inputs, width, 5, stride=2))
            inputs, side = width, -(-side // 2)
        self.linear = nn.Linear(inputs * side * side, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[n, c, h, w]`` to ``[n, o]``."""
        for layer, padding in zip(self.layers, self.padding, strict=True):
            x = functional.relu(layer(functional.pad(x, padding)))
        return self.linear(x.permute(0, 2, 3, 1).flatten(1))


class Decoder(nn.Module):
    """Twin of ``ConvolutionalDecoder``, mirrored."""

    def __init__(self, inputs: int, width: int, channels: Sequence[int], outputs: int):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList()
        for to in channels:
            self.layers.append(nn.ConvTranspose2d(width, to, 3, 2, padding=1, output_padding=1))
            width = to
        self.last = nn.Linear(width * 4 ** len(channels), outputs)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Classes and styles ``[n, k + s]`` to pixel logits ``[n, d]``."""
        h = functional.relu(self.first(h))[:, :, None, None]
        for layer in self.layers:
            h = functional.relu(layer(h))
        return self.last(h.permute(0, 2, 3, 1).flatten(1))


class Twin(nn.Module):
    """Twin of ``SemiSupervisedVAE`` with its loss, for a class by Gumbel-Softmax."""

    def __init__(self, num_classes: int = 10, style_size: int = 32):
        super().__init__()
        self.classifier = Convolutions(1, (32, 64, 128), num_classes)
        self.encoder = Convolutions(1 + num_classes, (32, 64, 128), 2 * style_size)
        self.decoder = Decoder(num_classes + style_size, 64, (128, 64, 32, 32), 784)

    def encode(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance ``[n, s]`` of images ``[n, 1, 28, 28]`` and classes ``[n, k]``."""
        maps = y[:, :, None, None].expand(-1, -1, *x.shape[2:])
        mean, log_variance = self.encoder(torch.cat([x, maps], 1)).chunk(2, 1)
        return mean, log_variance

    def cost(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``-log p(x | y, z) + KL`` at one z, ``[n]``."""
        mean, log_variance = self.encode(x, y)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        rate = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1)
        logits = self.decoder(torch.cat([y, z], 1))
        pixels = functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none")
        return rate + pixels.sum(1)

    def loss(self, x: torch.Tensor, labelled: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of unlabelled images ``x`` and of labelled ones."""
        sizes = [len(x), len(labelled)]
        both = torch.cat([x, labelled])
        of_x, of_labelled = self.classifier(both).split(sizes)
        costs = self.cost(both, torch.cat([functional.gumbel_softmax(of_x), y]))
        cost = torch.stack([part.mean() for part in costs.split(sizes)]).sum()
        log_q = of_x.log_softmax(1)
        rate = (log_q.exp() * log_q).sum(1).mean()  # and log k, twice: constants
        return cost + rate + functional.cross_entropy(of_labelled, y.argmax(1))


def training_call(
    unlabelled: int, labelled: int, steps: int, graph: bool = False, compiled: bool = False
) -> Callable[[], None]:
    """A call that trains the twin for so many steps of so many random grey images.

    With ``compiled`` the loss and its gradient are compiled, and Adam's update is one kernel.

    With ``graph`` a step is captured as a CUDA graph and replayed, with Adam's moments on the
    device and its update in one kernel: the fastest that PyTorch has there.
    """
    torch.manual_seed(0)
    twin = Twin().to(memory_format=torch.channels_last)
    options = {"capturable": True, "fused": True} if graph else {"fused": True}
    loss = torch.compile(twin.loss) if compiled else twin.loss
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, **options)
    grey = torch.rand(1_000, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    classes = functional.one_hot(torch.arange(labelled) % 10, 10).float()

    def binarised(images: torch.Tensor) -> torch.Tensor:
        return (images > torch.rand_like(images)).float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        x = binarised(grey[torch.randint(len(grey), (unlabelled,))])
        loss(x, binarised(grey[:labelled]), classes).backward()
        optimizer.step()

    if graph:
        step = _captured(step)

    def train() -> None:
        for _ in range(steps):
            step()

    return train


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph; a few plain ones first, as capturing needs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
