"""PSNR and SSIM, texture, and similarity of image regions."""
