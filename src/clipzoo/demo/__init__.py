"""The embedded default: rooms with CC0 furniture, a tiny CLIP and tiny experts; an ordinary plugin.

The files that register it are ``locations/demo.py`` and ``locations/rooms.py``, ``model_schemes/demo.py`` and
``experts/demo.py``.
"""
