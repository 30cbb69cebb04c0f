"""Sounds: recordings of any length and rate, cut, and turned into what a model takes.

`clips` and `features` are arithmetic on arrays; `recordings` reads files; `plan` is what [task.audio] says;
`examples` puts them together.
"""
