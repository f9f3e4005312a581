[Application]
name=org.telegram.desktop
command=telegram-desktop;Telegram;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
[Session Bus Policy]
org.freedesktop.Notifications=talk
org.kde.StatusNotifierWatcher=talk
