[Application]
name=com.transmissionbt.Transmission
command=transmission-gtk;transmission-qt;
[Context]
shared=network;
sockets=wayland;fallback-x11;
devices=dri;
