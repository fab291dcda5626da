"""torch.library contracts, once per operator for all backends: schema, fake and autograd.

Arguments arrive here checked and in canonical form (see fastbg.ops). `backend` is what the caller
asked for; it is resolved when the operator runs.
"""
