"""Feeds: any data that Keras accepts, as ordered batches with a known position."""

from perigee.data._open import open_feed as open_feed
from perigee.data._passes import PassFeed as PassFeed
from perigee.data._sizes import LARGE_STATE_BYTES as LARGE_STATE_BYTES
from perigee.data._sizes import SMALLER_STATE as SMALLER_STATE
from perigee.data._sizes import state_bytes as state_bytes
from perigee.data._spec import signature as signature
from perigee.data.arrays import ArrayFeed as ArrayFeed
from perigee.data.iterables import IterableFeed as IterableFeed
from perigee.data.pydataset import PyDatasetFeed as PyDatasetFeed
from perigee.data.tf_data import TFDatasetFeed as TFDatasetFeed
