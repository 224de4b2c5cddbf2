"""Where pixels come from: sources of labelled images and clips, and batches of them in a reproducible order."""

from ulzoo.data.atari import Atari
from ulzoo.data.batches import Batch, batches, in_order
from ulzoo.data.contract import DataContract
from ulzoo.data.emoji3d import Emoji3D
from ulzoo.data.emoji3d_video import Emoji3DVideo
from ulzoo.data.fashion_mnist import FashionMNIST
from ulzoo.data.hf_dataset import HFDataset
from ulzoo.data.image_folder import ImageFolder
from ulzoo.data.kinetics600 import Kinetics600
from ulzoo.data.latents import Latents
from ulzoo.data.source import Source, TensorSource
from ulzoo.data.video_folder import VideoFolder
from ulzoo.data.video_shards import VideoShards
from ulzoo.data.webdataset import WebDataset

__all__ = [
    "Atari",
    "Batch",
    "DataContract",
    "Emoji3D",
    "Emoji3DVideo",
    "FashionMNIST",
    "HFDataset",
    "ImageFolder",
    "Kinetics600",
    "Latents",
    "Source",
    "TensorSource",
    "VideoFolder",
    "VideoShards",
    "WebDataset",
    "batches",
    "in_order",
]
