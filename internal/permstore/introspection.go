package permstore

// introspection describes the interface to those who ask.
const introspection = `<interface name="org.freedesktop.impl.portal.PermissionStore">
  <property name="version" type="u" access="read"/>
  <method name="Lookup">
    <arg type="s" name="table" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="a{sas}" name="permissions" direction="out"/>
    <arg type="v" name="data" direction="out"/>
  </method>
  <method name="Set">
    <arg type="s" name="table" direction="in"/>
    <arg type="b" name="create" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="a{sas}" name="app_permissions" direction="in"/>
    <arg type="v" name="data" direction="in"/>
  </method>
  <method name="Delete">
    <arg type="s" name="table" direction="in"/>
    <arg type="s" name="id" direction="in"/>
  </method>
  <method name="SetValue">
    <arg type="s" name="table" direction="in"/>
    <arg type="b" name="create" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="v" name="data" direction="in"/>
  </method>
  <method name="SetPermission">
    <arg type="s" name="table" direction="in"/>
    <arg type="b" name="create" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="s" name="app" direction="in"/>
    <arg type="as" name="permissions" direction="in"/>
  </method>
  <method name="DeletePermission">
    <arg type="s" name="table" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="s" name="app" direction="in"/>
  </method>
  <method name="GetPermission">
    <arg type="s" name="table" direction="in"/>
    <arg type="s" name="id" direction="in"/>
    <arg type="s" name="app" direction="in"/>
    <arg type="as" name="permissions" direction="out"/>
  </method>
  <method name="List">
    <arg type="s" name="table" direction="in"/>
    <arg type="as" name="ids" direction="out"/>
  </method>
  <signal name="Changed">
    <arg type="s" name="table"/>
    <arg type="s" name="id"/>
    <arg type="b" name="deleted"/>
    <arg type="v" name="data"/>
    <arg type="a{sas}" name="permissions"/>
  </signal>
</interface>
`
