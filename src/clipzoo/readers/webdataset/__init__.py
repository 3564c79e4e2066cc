"""Tars of ``<key>.<field>`` members, as img2dataset, webdataset and other tools write them."""

from clipzoo.readers.webdataset.reader import READER, WebDataset
from clipzoo.readers.webdataset.writing import add_member, write_shard

__all__ = ["READER", "WebDataset", "add_member", "write_shard"]
