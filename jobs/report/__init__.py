"""`bei-jobs report`: what is known of an output, gathered from its own files, as a page.

`gather.gather` reads an output and returns the JSON object of `--json`; `page.page` draws it.
"""
