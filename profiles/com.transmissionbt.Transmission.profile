# What it loads goes to ~/.var/app/com.transmissionbt.Transmission/Downloads.
# Its own file dialog shows an empty home; torrents come by "open with".
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
