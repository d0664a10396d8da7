/* A Modbus server on libmodbus (Debian's libmodbus-dev).
 *
 * Usage: libmodbus_server PORT, or libmodbus_server /dev/TTY BAUD N|E|O UNIT.
 * The first serves Modbus TCP, one client at a time; the second RTU. Each
 * table has 1000 addresses. Lines on standard input such as
 * "holding 10 1 2 3" set values; each is answered by "ok". It ends with
 * standard input.
 */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static void set(modbus_mapping_t *m, const char *table, int addr, int value) {
	if (addr < 0 || addr >= 1000) return;
	if (strcmp(table, "coil") == 0) m->tab_bits[addr] = value;
	if (strcmp(table, "discrete") == 0) m->tab_input_bits[addr] = value;
	if (strcmp(table, "holding") == 0) m->tab_registers[addr] = value;
	if (strcmp(table, "input") == 0) m->tab_input_registers[addr] = value;
}

static void obey(modbus_mapping_t *m) {
	char line[4096];
	if (fgets(line, sizeof line, stdin) == NULL) exit(0);
	char *table = strtok(line, " \n"), *word = strtok(NULL, " \n");
	if (table == NULL || word == NULL) exit(1);
	for (int addr = atoi(word); (word = strtok(NULL, " \n")) != NULL; addr++)
		set(m, table, addr, atoi(word));
	puts("ok");
}

/* Waits until fd can be read, and obeys meanwhile. */
static void await(int fd, modbus_mapping_t *m) {
	for (;;) {
		fd_set set;
		FD_ZERO(&set);
		FD_SET(0, &set);
		FD_SET(fd, &set);
		if (select(fd + 1, &set, NULL, NULL, NULL) < 0) exit(1);
		if (FD_ISSET(0, &set)) obey(m);
		if (FD_ISSET(fd, &set)) return;
	}
}

static void serve_tcp(int port, modbus_mapping_t *m) {
	modbus_t *ctx = modbus_new_tcp("127.0.0.1", port);
	int listener = modbus_tcp_listen(ctx, 4), client = -1;
	if (listener < 0) {
		perror("libmodbus_server");
		exit(1);
	}
	for (;;) {
		await(client < 0 ? listener : client, m);
		if (client < 0) {
			int l = listener; /* modbus_tcp_accept overwrites it */
			client = modbus_tcp_accept(ctx, &l);
			continue;
		}
		uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
		int n = modbus_receive(ctx, query);
		if (n > 0) {
			modbus_reply(ctx, query, n, m);
		} else if (n < 0) {
			close(client);
			client = -1;
		}
	}
}

static void serve_serial(char **argv, modbus_mapping_t *m) {
	modbus_t *ctx = modbus_new_rtu(argv[1], atoi(argv[2]), argv[3][0], 8, 1);
	if (ctx == NULL || modbus_set_slave(ctx, atoi(argv[4])) < 0 || modbus_connect(ctx) < 0) {
		perror("libmodbus_server");
		exit(1);
	}
	for (;;) {
		await(modbus_get_socket(ctx), m);
		uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
		int n = modbus_receive(ctx, query); /* 0: for another unit */
		if (n > 0) {
			modbus_reply(ctx, query, n, m);
		} else if (n < 0 && (errno == EIO || errno == ECONNRESET)) {
			exit(0); /* the line is gone */
		}
	}
}

int main(int argc, char **argv) {
	if (argc != 2 && argc != 5) return 2;
	setvbuf(stdin, NULL, _IONBF, 0); /* select sees what stdio would keep */
	setvbuf(stdout, NULL, _IOLBF, 0);
	modbus_mapping_t *m = modbus_mapping_new(1000, 1000, 1000, 1000);
	if (m == NULL) return 1;
	if (argc == 2) serve_tcp(atoi(argv[1]), m);
	serve_serial(argv, m);
}
