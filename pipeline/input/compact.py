"""Arrays without what no row of them refers to, so that a few rows never hold a whole file's.

Views and dictionaries share their values: a slice of them refers to the values of all rows, which
memory then holds, and which every part would be written with.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.input.types import map_types


def compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the values that its rows refer to, and no others."""
    if not any(map(_shares, batch.schema.types)):
        return batch
    arrays = [_compact(array) if _shares(array.type) else array for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _shares(kind: pa.DataType) -> bool:
    """Whether slices of arrays of this type share their values."""
    if isinstance(kind, pa.BaseExtensionType):
        return _shares(kind.storage_type)
    if pa.types.is_dictionary(kind) or _is_list_view(kind):
        return True
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return any(_shares(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _compact(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _compact(array.storage))
    if pa.types.is_dictionary(kind):
        return _used(array)
    if _is_list_view(kind):
        return _joined(array)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return array.cast(_without_views(kind)).cast(kind)
    if not pa.types.is_struct(kind):  # a cast takes the values of all lists, also of a slice
        array = pa.concat_arrays([array, array.slice(0, 0)])
    try:
        return array.cast(_without_views(kind)).cast(kind)
    except (pa.ArrowException, NotImplementedError):
        return array  # a view within a type that pyarrow casts to nothing


def _used(array: pa.DictionaryArray) -> pa.DictionaryArray:
    """A dictionary array whose dictionary has the entries that its rows name, in their order."""
    if len(array.dictionary) <= len(array):
        return array
    import pyarrow.compute as pc  # takes a moment, and few columns need it

    used = pc.unique(array.indices).drop_null()
    used = used.take(pc.sort_indices(used))
    indices = pc.index_in(array.indices, used).cast(array.type.index_type)
    plain = array.dictionary.cast(_without_views(array.type.value_type))  # no kernel takes views
    values = plain.take(used).cast(array.type.value_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=array.type.ordered)


def _joined(array: pa.Array) -> pa.Array:
    """A list view whose values are those of its rows, one after the other."""
    import pyarrow.compute as pc

    kind, wide = array.type, pa.types.is_large_list_view(array.type)
    index = pa.int64() if wide else pa.int32()
    lengths = np.asarray(pc.list_value_length(array).fill_null(0), dtype=np.int64)
    starts, sizes = pa.array(np.cumsum(lengths) - lengths, index), pa.array(lengths, index)
    make = pa.LargeListViewArray if wide else pa.ListViewArray
    values = array.flatten()
    values = _compact(values) if _shares(values.type) else values
    return make.from_arrays(starts, sizes, values, type=kind, mask=array.is_null())


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The same type with plain strings instead of views, at any depth."""
    return map_types(kind, _plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind
