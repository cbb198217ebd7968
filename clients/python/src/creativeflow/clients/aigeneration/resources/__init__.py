"""Resources of the API as frozen dataclasses with the API's field names."""
