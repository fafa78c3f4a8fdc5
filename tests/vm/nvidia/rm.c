// SPDX-License-Identifier: GPL-2.0
/* Clients and their objects. One lock for all, as in the driver. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "nvidia.h"

static unsigned int alloc_ms;
module_param(alloc_ms, uint, 0644);
MODULE_PARM_DESC(alloc_ms, "How long an allocation takes");

struct object {
	struct list_head list;
	u32 handle, parent, class;
	int pid;
};

struct client {
	struct list_head list;
	struct list_head objects;
	struct file_private *file;
	u32 handle;
};

static DEFINE_MUTEX(rm_lock);
static LIST_HEAD(clients);
static u32 next_client = 0xc1d00000, next_object = 0xcaf00000;

#define CLASS_DEVICE 0x80
#define CLASS_SUBDEVICE 0x2080
#define CLASS_GROUP 0xa06c
#define CLASS_MEMORY 0x3e

static bool is_root(u32 class) { return class == 0 || class == 1 || class == 0x41; }
static bool is_channel(u32 class) { return (class & 0xff) == 0x6f; }
static bool is_doorbell(u32 class) { return (class & 0xff) == 0x61; }

static struct client *client_of(struct file_private *file, u32 handle)
{
	struct client *client;

	list_for_each_entry(client, &clients, list)
		if (client->handle == handle && client->file == file)
			return client;
	return NULL;
}

static struct object *object_of(struct client *client, u32 handle)
{
	struct object *object;

	list_for_each_entry(object, &client->objects, list)
		if (object->handle == handle)
			return object;
	return NULL;
}

static void free_object(struct client *client, struct object *object)
{
	struct object *below;
	u32 handle = object->handle;

	list_del(&object->list);
	kfree(object);
again:
	list_for_each_entry(below, &client->objects, list)
		if (below->parent == handle) {
			free_object(client, below);
			goto again;
		}
}

static void free_client(struct client *client)
{
	struct object *object, *next;

	list_for_each_entry_safe(object, next, &client->objects, list)
		kfree(object);
	list_del(&client->list);
	kfree(client);
}

static u32 make_client(struct file_private *file, u32 *handle)
{
	struct client *client = kzalloc(sizeof(*client), GFP_KERNEL);

	if (!client)
		return NV_ERR_NO_MEMORY;
	INIT_LIST_HEAD(&client->objects);
	client->file = file;
	client->handle = ++next_client;
	list_add(&client->list, &clients);
	*handle = client->handle;
	return NV_OK;
}

static bool fits(struct client *client, u32 parent, u32 class)
{
	struct object *above = object_of(client, parent);

	if (class == CLASS_DEVICE)
		return parent == client->handle;
	if (!above)
		return false;
	if (is_channel(class))
		return above->class == CLASS_DEVICE || above->class == CLASS_GROUP;
	if (is_doorbell(class))
		return above->class == CLASS_SUBDEVICE;
	return above->class == CLASS_DEVICE;
}

static u32 make_object(struct file_private *file, u32 root, u32 parent, u32 *handle, u32 class)
{
	struct client *client;
	struct object *object;

	if (is_root(class))
		return make_client(file, handle);
	if (class != CLASS_DEVICE && class != CLASS_SUBDEVICE && class != CLASS_GROUP &&
	    class != CLASS_MEMORY && !is_channel(class) && !is_doorbell(class))
		return NV_ERR_INVALID_CLASS;
	client = client_of(file, root);
	if (!client)
		return NV_ERR_INVALID_CLIENT;
	if (!fits(client, parent, class))
		return NV_ERR_INVALID_OBJECT_HANDLE;
	if (*handle && object_of(client, *handle))
		return NV_ERR_INSERT_DUPLICATE_NAME;
	object = kzalloc(sizeof(*object), GFP_KERNEL);
	if (!object)
		return NV_ERR_NO_MEMORY;
	if (!*handle)
		*handle = ++next_object;
	*object = (struct object){
		.handle = *handle, .parent = parent, .class = class, .pid = task_tgid_nr(current),
	};
	list_add(&object->list, &client->objects);
	return NV_OK;
}

static u32 rm_alloc(struct file_private *file, u32 root, u32 parent, u32 *handle, u32 class, u64 parameters)
{
	u32 status;

	/* What fails in the driver for a reason of its own. */
	if (parameters == ~0ull)
		return NV_ERR_INVALID_ARGUMENT;
	if (alloc_ms)
		msleep(alloc_ms);
	mutex_lock(&rm_lock);
	status = make_object(file, root, parent, handle, class);
	mutex_unlock(&rm_lock);
	return status;
}

static u32 rm_free(struct file_private *file, u32 root, u32 handle)
{
	struct client *client;
	struct object *object;
	u32 status = NV_OK;

	mutex_lock(&rm_lock);
	client = client_of(file, root);
	object = client ? object_of(client, handle) : NULL;
	if (!client)
		status = NV_ERR_INVALID_CLIENT;
	else if (handle == root)
		free_client(client);
	else if (object)
		free_object(client, object);
	else
		status = NV_ERR_INVALID_OBJECT_HANDLE;
	mutex_unlock(&rm_lock);
	return status;
}

#ifndef TRACED
notrace
#endif
noinline u32 rm_ioctl(void *stack, void *state, struct file_private *file, u32 command,
		      void *parameters, u32 bytes)
{
	if (command == NV_ESC_RM_ALLOC && bytes == sizeof(struct nv_alloc)) {
		struct nv_alloc *a = parameters;

		a->status = rm_alloc(file, a->root, a->parent, &a->handle, a->class, a->parameters);
	} else if (command == NV_ESC_RM_ALLOC && bytes == sizeof(struct nv_alloc_access)) {
		struct nv_alloc_access *a = parameters;

		a->status = rm_alloc(file, a->root, a->parent, &a->handle, a->class, a->parameters);
	} else if (command == NV_ESC_RM_ALLOC && bytes == sizeof(struct nv_alloc_future)) {
		struct nv_alloc_future *a = parameters;

		a->status = rm_alloc(file, a->root, a->parent, &a->handle, a->class, a->parameters);
	} else if (command == NV_ESC_RM_ALLOC_OBJECT && bytes == sizeof(struct nv_alloc_object)) {
		struct nv_alloc_object *a = parameters;

		a->status = rm_alloc(file, a->root, a->parent, &a->handle, a->class, 0);
	} else if (command == NV_ESC_RM_FREE && bytes == sizeof(struct nv_free)) {
		struct nv_free *f = parameters;

		f->status = rm_free(file, f->root, f->handle);
	} else {
		return NV_ERR_INVALID_ARGUMENT;
	}
	return NV_OK;
}

noinline void rm_cleanup_file_private(void *stack, void *state, struct file_private *file)
{
	struct client *client, *next;

	mutex_lock(&rm_lock);
	list_for_each_entry_safe(client, next, &clients, list)
		if (client->file == file)
			free_client(client);
	mutex_unlock(&rm_lock);
}

void rm_count(struct test_count *count)
{
	struct client *client;
	struct object *object;

	count->channels = count->groups = count->doorbells = 0;
	mutex_lock(&rm_lock);
	list_for_each_entry(client, &clients, list)
		list_for_each_entry(object, &client->objects, list) {
			if (object->pid != count->pid)
				continue;
			count->channels += is_channel(object->class);
			count->groups += object->class == CLASS_GROUP;
			count->doorbells += is_doorbell(object->class);
		}
	mutex_unlock(&rm_lock);
}
