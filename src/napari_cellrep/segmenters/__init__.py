"""Image → labels, one file each.

A segmenter file holds a docstring, a frozen dataclass ``Config`` (every field with a default) and::

    def segment(image, channels, config, device="cpu") -> labels

``image`` is (C, H, W) in any dtype, ``channels`` the `Channel` of each plane (`specs.find_channel` finds one by
name or role), ``labels`` int32 (H, W), 0 = background. It raises `InputError` for an image it cannot use.
"""
