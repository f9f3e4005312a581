# What it saves without asking goes to ~/.var/app/org.gnome.Epiphany/Downloads.
[Application]
name=org.gnome.Epiphany
command=epiphany;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
persistent=Downloads;
