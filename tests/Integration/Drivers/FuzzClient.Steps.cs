using FramePin.Client;
using FramePin.Core.Syscalls;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Tests.Support;
using FramePin.V1;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>The calls.</summary>
internal sealed partial class FuzzClient
{
    /// <summary>Bytes of a frame of 64 by 64 pixels of YUYV.</summary>
    private const uint Size = 8192;

    private static readonly string[] Injections =
        ["inject_queue_setup_error", "inject_buf_prepare_error", "inject_start_streaming_error", "inject_dqbuf_error",
            "inject_fatal_error"];

    private async Task<(string What, Errno Errno)> StepAsync(FuzzFile file)
    {
        var memory = _random.Next(30) switch
        {
            0 => 77U,
            < 3 => (uint)Vb2Memory.Mmap,
            < 5 => (uint)Vb2Memory.DmaBuf,
            < 7 => (uint)Vb2Memory.UserPtr,
            _ when file.Has == QueueUse.Buffers => file.Memory,
            _ => (uint)(_random.Next(2) == 0 ? Vb2Memory.Mmap : Vb2Memory.UserPtr),
        };
        var chance = _random.Next(100);
        return file.Has switch
        {
            QueueUse.Nothing when chance < 20 => await RequestAsync(file, (uint)_random.Next(6), memory),
            QueueUse.FileIo when chance < 40 => await TransferAsync(file),
            QueueUse.FileIo when chance < 45 => await CloseAsync(file),
            QueueUse.FileIo when chance < 60 => await RemoveAsync(file, AnyIndex()),
            _ when file.IsBroken && chance < 30 => await StopAsync(file),
            _ => await BuffersAsync(file, memory) ?? await OthersAsync(file, memory),
        };
    }

    /// <summary>The way of a buffer; null where another call is to come.</summary>
    private async Task<(string What, Errno Errno)?> BuffersAsync(FuzzFile file, uint memory)
    {
        var device = file.Device;
        var index = AnyIndex();
        switch (_random.Next(100))
        {
            case < 25:
                var errno = (await device.QueueAsync(Buffer(index, memory))).Errno;
                if (errno == Errno.None) file.Give(index);
                return ("QBUF", errno);
            case < 40:
                return await DequeueAsync(file, memory, "DQBUF", null);
            case < 52:
                return await DequeueAsync(file, memory, "DQBUF hurried", _random.NextDouble() * 2);
            case < 60:
                return ("STREAMON", await device.StreamOnAsync());
            case < 61:
                return await StopAsync(file);
            case < 62:
                return await BesideAsync(file, memory);
            case < 64:
                return ("PREPARE_BUF", (await device.PrepareAsync(Buffer(index, memory))).Errno);
            case < 66:
                return ("QUERYBUF", (await device.QueryAsync(index)).Errno);
            default:
                return null;
        }
    }

    private async Task<(string What, Errno Errno)> OthersAsync(FuzzFile file, uint memory)
    {
        var device = file.Device;
        var index = AnyIndex();
        switch (_random.Next(34))
        {
            case 0:
                return await RequestAsync(file, (uint)_random.Next(6), memory);
            case < 4:
                return await CreateAsync(file, memory);
            case < 6:
                return await RemoveAsync(file, index);
            case < 10:
                return ("EXPBUF", await ExportAsync(device, index));
            case < 12:
                return ("close of a dma-buf", await CloseDmaBufAsync());
            case < 16:
                return ("mmap", await MapAsync(device, index));
            case 16:
                return ("S_FMT", await SetFormatAsync(device));
            case < 20:
                return await TransferAsync(file);
            case < 23:
                return await PollAsync(file);
            case < 26:
                return ("munmap of a user's buffer", Remap());
            case < 30:
                await CheckAsync(file);
                return ("check", Errno.None);
            case 30:
                return _random.Next(3) == 0 ? await CloseUnderAsync(file) : await CloseAsync(file);
            case 31 when _random.Next(4) == 0:
                return ("inject", await device.SetControlAsync(Injections[_random.Next(Injections.Length)], 1));
            default:
                return ("G_FMT", (await device.GetFormatAsync()).Errno);
        }
    }

    private static async Task<(string What, Errno Errno)> StopAsync(FuzzFile file)
    {
        var errno = await file.Device.StreamOffAsync();
        if (errno == Errno.None) file.Clear();
        return ("STREAMOFF", errno);
    }

    /// <summary>poll of a queue without buffers begins read() or write().</summary>
    private async Task<(string What, Errno Errno)> PollAsync(FuzzFile file)
    {
        var time = _random.Next(2) == 0 ? TimeSpan.Zero : TimeSpan.FromMilliseconds(1);
        var (errno, events) = await file.Device.PollAsync((PollEvents)_random.Next(8), time);
        if (file.Has == QueueUse.Nothing && (events & PollEvents.Out) != 0) file.Has = QueueUse.FileIo;
        return ("poll", errno);
    }

    /// <summary>A queue that streams keeps its buffers, and one without takes others: all are the client's.</summary>
    private static async Task<(string What, Errno Errno)> RequestAsync(FuzzFile file, uint count, uint memory)
    {
        var errno = (await file.Device.RequestBuffersAsync(count, memory)).Errno;
        if (errno == Errno.None)
        {
            file.Clear();
            (file.Has, file.Memory) = (count > 0 ? QueueUse.Buffers : QueueUse.Nothing, memory);
        }

        // Buffers of before may be gone, although none came.
        if (errno is not (Errno.None or Errno.EBUSY)) (file.IsKnown, file.Has) = (false, QueueUse.Nothing);
        return ("REQBUFS", errno);
    }

    private async Task<(string What, Errno Errno)> CreateAsync(FuzzFile file, uint memory)
    {
        var format = (await file.Device.GetFormatAsync()).Format;
        if (_random.Next(4) == 0) format.Planes[0].SizeImage--;
        var (errno, answer) = await file.Device.IoctlAsync(
            V4l2.CreateBuffers,
            new V4l2CreateBuffers { Count = (uint)_random.Next(4), Memory = memory, Format = format });
        if (errno == Errno.None && answer.Count > 0) (file.Has, file.Memory) = (QueueUse.Buffers, memory);
        return ("CREATE_BUFS", errno);
    }

    private async Task<(string What, Errno Errno)> RemoveAsync(FuzzFile file, uint index)
    {
        var argument = new V4l2RemoveBuffers
        {
            Index = index,
            Count = (uint)_random.Next(3),
            Type = file.Device.Type,
        };
        return ("REMOVE_BUFS", (await file.Device.IoctlAsync(V4l2.RemoveBuffers, argument)).Errno);
    }

    private async Task<Errno> SetFormatAsync(V4l2Device device) =>
        (await device.SetFormatAsync("YUYV", 64, _random.Next(4) == 0 ? 32 : 64)).Errno;

    private async Task<Errno> ExportAsync(V4l2Device device, uint index)
    {
        var (errno, export) = await device.ExportAsync(index);
        if (errno == Errno.None) _dmaBufs[export.DmaBuf] = 0;
        return errno;
    }

    private async Task<Errno> CloseDmaBufAsync()
    {
        if (AnyDmaBuf() is { } name && _dmaBufs.TryRemove(name, out _))
            await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = name });
        return Errno.None;
    }

    /// <summary>The first ones most often, which there are.</summary>
    private uint AnyIndex() => (uint)_random.Next(_random.Next(4) == 0 ? 6 : 3);

    private string? AnyDmaBuf()
    {
        var names = _dmaBufs.Keys.Order(StringComparer.Ordinal).ToList();
        return names.Count == 0 ? null : names[_random.Next(names.Count)];
    }

    private async Task<Errno> MapAsync(V4l2Device device, uint index)
    {
        var offset = (await device.QueryAsync(index)).Buffer is { Planes: [var plane, ..] }
            ? plane.Offset
            : index << 15;
        var (errno, address) = await device.File.MapAsync(_space, Size, 3, (uint)_random.Next(1, 3), offset);
        if (errno == Errno.None) _mappings.Enqueue(address);
        if (_mappings.Count > MostMappings || (_mappings.Count > 0 && _random.Next(2) == 0))
            _rig.Machine.Munmap(_lab.Space, _mappings.Dequeue(), Size);
        return errno;
    }

    /// <summary>Other pages, where the driver may have the old ones pinned.</summary>
    private Errno Remap()
    {
        var area = At + ((ulong)_random.Next(Areas) * Step);
        _rig.Machine.Munmap(_lab.Space, area, Pages * 4096);
        _lab.Anon(area, Pages);
        return Errno.None;
    }

    private async Task<(string What, Errno Errno)> TransferAsync(FuzzFile file)
    {
        var address = _random.Next(8) == 0 ? 0x5000_0000 : At;
        var length = _random.Next(3) switch { 0 => 10UL, 1 => Size, _ => Size + 10UL };
        var isWrite = _random.Next(4) == 0 ? file.Node == 0 : file.Node == 1;
        var errno = isWrite
            ? (await file.Device.File.WriteAsync(_space, address, length, isNonBlocking: true)).Errno
            : (await file.Device.File.ReadAsync(_space, address, length, isNonBlocking: true)).Errno;
        if (errno is Errno.None or Errno.EAGAIN) file.Has = QueueUse.FileIo;
        return (isWrite ? "write" : "read", errno);
    }

    /// <summary>
    /// DQBUF without waiting, or with a deadline in milliseconds that comes before a frame, or behind it.
    /// </summary>
    private static async Task<(string What, Errno Errno)> DequeueAsync(
        FuzzFile file, uint memory, string what, double? deadline)
    {
        using var signal = deadline is { } time ? new CancellationTokenSource(TimeSpan.FromMilliseconds(time)) : null;
        try
        {
            var (errno, buffer) = await file.Device.DequeueAsync(
                memory, isNonBlocking: signal is null, signal?.Token ?? CancellationToken.None);
            if (errno == Errno.None) file.Take(buffer.Index);
            return (what, errno);
        }
        catch (OperationCanceledException)
        {
            return ("DQBUF given up", Errno.None);
        }
    }

    private V4l2Buffer Buffer(uint index, uint memory) => new()
    {
        Index = index,
        Memory = memory,
        Planes =
        {
            new V4l2Plane
            {
                UserPointer = _random.Next(30) switch { 0 => 0, 1 => 0x5000_0000, 2 => At + 4096,
                    var place => At + ((ulong)(place % Areas) * Step) },
                DmaBuf = AnyDmaBuf() ?? "",
                Length = _random.Next(30) switch { 0 => 0, 1 => Size - 1, 2 => Size + 1, _ => Size },
                BytesUsed = _random.Next(30) == 0 ? Size + 1 : 0,
            },
        },
    };
}
