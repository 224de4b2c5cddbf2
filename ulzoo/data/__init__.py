"""Data: sources of labelled images and video clips, and batches of them in a reproducible order."""

from ulzoo.data.images.emoji3d import Emoji3D
from ulzoo.data.images.fashion_mnist import FashionMNIST
from ulzoo.data.images.hf_dataset import HFDataset
from ulzoo.data.images.image_files import ImageFiles
from ulzoo.data.images.image_folder import ImageFolder
from ulzoo.data.images.webdataset import WebDataset
from ulzoo.data.latents import Latents
from ulzoo.data.loader import Batch, StreamShard, batches, in_order
from ulzoo.data.source import DataContract, Source, TensorSource
from ulzoo.data.videos.atari import Atari
from ulzoo.data.videos.emoji3d_video import Emoji3DVideo
from ulzoo.data.videos.video_folder import VideoFolder
from ulzoo.data.videos.video_shards import Kinetics600, VideoShards

__all__ = [
    "Atari",
    "Batch",
    "DataContract",
    "Emoji3D",
    "Emoji3DVideo",
    "FashionMNIST",
    "HFDataset",
    "ImageFiles",
    "ImageFolder",
    "Kinetics600",
    "Latents",
    "Source",
    "StreamShard",
    "TensorSource",
    "VideoFolder",
    "VideoShards",
    "WebDataset",
    "batches",
    "in_order",
]
