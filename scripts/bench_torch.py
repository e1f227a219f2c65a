"""The semi-supervised training step of configs/semisup.py in PyTorch, to compare speed with.

Needs the extra ``bench``. Written as its users would for speed: channels last, labelled and
unlabelled images through each network in one pass. The class joins the encoder as constant channels
of its image. In the decoder images stand mirrored, so that no output of a transposed convolution
has to be cropped; up to that relabelling of weights the networks are the same (a test holds them to
it), and so are losses, dynamic binarisation and Adam.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional


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
    unlabelled: int, labelled: int, steps: int, graph: bool = False
) -> Callable[[], None]:
    """A call that trains the twin for so many steps of so many random grey images.

    With ``graph`` a step is captured as a CUDA graph and replayed, with Adam's moments on the
    device and its update in one kernel: the fastest that PyTorch has there.
    """
    torch.manual_seed(0)
    twin = Twin().to(memory_format=torch.channels_last)
    options = {"capturable": True, "fused": True} if graph else {}
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, **options)
    grey = torch.rand(1_000, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    classes = functional.one_hot(torch.arange(labelled) % 10, 10).float()

    def binarised(images: torch.Tensor) -> torch.Tensor:
        return (images > torch.rand_like(images)).float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        x = binarised(grey[torch.randint(len(grey), (unlabelled,))])
        twin.loss(x, binarised(grey[:labelled]), classes).backward()
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
