"""What reward to expect of a sampled read."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MovingBaseline(nn.Module):
    """The moving mean of the rewards so far, which a score-function loss subtracts to lower its variance.

        b <- m b + (1 - m) mean(reward)

    Paper: Xu et al., "Show, Attend and Tell", ICML 2015, section 4.1, with m = 0.9.

    Args:
        momentum: the weight `m` of the past; default 0.9, the paper's choice.

    Shapes:
        reward: any shape. Gives a scalar: the baseline before this reward, so that it does not depend on it.
        In training the buffer `value`, which starts at 0, then takes the reward in; in evaluation it stays.
    """

    value: Tensor

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(()))

    def forward(self, reward: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        before = self.value.clone()
        if self.training:
            with torch.no_grad():
                self.value.lerp_(reward.detach().mean().to(self.value.dtype), 1 - self.momentum)
        return before
