"""The recipe of the embedded model: synthetic chats, a tokenizer, training, export and evaluation.

`problems`, `tools`, `conversation`, `chatml` and `scoring` need nothing beyond Python; the rest needs
`demo/requirements.txt`.
"""
