"""PPO with any memory, beside recurrent PPO of sb3-contrib, and fine-tuning of offline agents."""
