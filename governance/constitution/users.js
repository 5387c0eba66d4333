// Actions on users: whom the application knows by a certificate.

define("set_user", {
  args: { cert: certificate, user_data: optional(data) },
  apply({ cert, user_data }) {
    const userId = ccf.pemToId(cert);
    writeText(USER_CERTS, userId, cert);
    writeUserData(userId, user_data);
  },
});

define("remove_user", {
  args: { user_id: id("user") },
  apply({ user_id }) {
    remove(USER_CERTS, user_id);
    remove(USER_INFO, user_id);
  },
});

define("set_user_data", {
  args: { user_id: id("user"), user_data: optional(data) },
  apply({ user_id, user_data }) {
    if (!has(USER_CERTS, user_id)) throw new Error(`there is no user ${user_id}`);
    writeUserData(user_id, user_data);
  },
});

function writeUserData(userId, user_data) {
  if ((user_data ?? null) === null) remove(USER_INFO, userId);
  else writeJson(USER_INFO, userId, { user_data });
}
