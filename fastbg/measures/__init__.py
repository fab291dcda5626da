"""PSNR and SSIM, texture, likeness of two image regions."""
