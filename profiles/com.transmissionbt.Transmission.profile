# What it loads goes to ~/.var/app/com.transmissionbt.Transmission/Downloads.
[Application]
name=com.transmissionbt.Transmission
command=transmission-gtk;transmission-qt;
[Context]
shared=network;
sockets=wayland;fallback-x11;
devices=dri;
persistent=Downloads;
[Session Bus Policy]
com.transmissionbt.*=own
