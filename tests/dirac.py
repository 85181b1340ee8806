"""The Dirac-GAN of Mescheder et al. 2018, arXiv:1801.04406: its vector field and its eigenvalues."""

import torch

F64 = torch.float64


def gradient_field(loss, penalties=()):
    """Where both players move: data at 0, generator at theta, critic psi x."""

    def field(state):
        if not state.requires_grad:
            return field(state.clone().requires_grad_()).detach()
        psi, theta = state.unbind()
        real = torch.zeros(1, 1, dtype=F64)

        def critic(x):
            return (psi * x).squeeze(1)

        fake = theta.reshape(1, 1)
        critic_loss = loss.discriminator(critic(real), critic(fake))
        for penalty in penalties:
            critic_loss = critic_loss + penalty(critic, real, fake)
        generator_loss = loss.generator(critic(fake), real_logits=critic(real))
        (d_psi,) = torch.autograd.grad(critic_loss, psi, create_graph=True)
        (d_theta,) = torch.autograd.grad(generator_loss, theta, create_graph=True)
        return -torch.stack([d_psi, d_theta])

    return field


def eigenvalues(loss, penalties=()):
    field = gradient_field(loss, penalties)
    matrix = torch.autograd.functional.jacobian(field, torch.zeros(2, dtype=F64))
    values = torch.linalg.eigvals(matrix)
    return sorted(values.tolist(), key=lambda z: (z.real, z.imag))
