"""What ``collectives demo`` is made of: the model, the text, the peers, the parent and its report.

Demo code: nothing here is part of the library's API, and the library never imports it.
"""
