"""Faithful stand-ins for the vendors, on loopback: the only fakes the tests know.

Each file is one vendor's language as a small ASGI app. What it answers is decided by triggers in the prompt
(script.py); what it refuses is what the vendor refuses. It keeps every request it saw and everything it billed.
`serve.py` starts one: `with serve(OpenAI()) as upstream: ...`, or `python -m tests.upstreams.serve openai 9100`.
"""
