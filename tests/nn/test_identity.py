import pytest
import torch

from ulzoo.nn import IdentityEncoder


@pytest.mark.parametrize("size", [(8, 6), (4, 8, 6)], ids=["2d", "3d"])
def test_there_and_back_it_is_x_itself(size: tuple[int, ...]) -> None:
    encoder, x = IdentityEncoder(size, 3, 3, (1,) * len(size)), torch.randn(2, 3, *size)
    assert torch.equal(encoder(x), x) and torch.equal(encoder.decode(encoder(x)), x)
    assert not list(encoder.parameters()) and not encoder.state_dict()


@pytest.mark.parametrize(
    ("size", "channels", "downsample", "message"),
    [
        ((8, 8), 32, (1, 1), r"^latent.channels 32 are not the data's 3, .*: set latent.channels to 3$"),
        ((8, 8), 3, (2, 2), r"^latent.downsample \[2, 2\] is not the identity's: set latent.downsample to \[1, 1\]$"),
        ((4, 8, 8), 3, (1, 1), r"^latent.downsample \[1, 1\] .* set latent.downsample to \[1, 1, 1\]$"),
    ],
)
def test_another_latent_than_x_is_refused(
    size: tuple[int, ...], channels: int, downsample: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        IdentityEncoder(size, 3, channels, downsample)
