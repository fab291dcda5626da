"""torch.library registrations, once per operator for all backends: schema, fake and autograd.

Arguments arrive here checked and in canonical form (see fastbg.ops). `backend` is what the caller
asked for; `dispatch` resolves it when the operator runs.
"""
