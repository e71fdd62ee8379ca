using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>Getting a buffer ready: the memory behind its planes (__buf_prepare).</summary>
public sealed partial class Vb2Queue
{
    /// <summary>
    /// Buffers that are prepared keep their memory, whatever the argument says now. On an errno the buffer stays as it
    /// was.
    /// </summary>
    private async Task<Errno> PrepareAsync(Vb2Buffer buffer, V4l2Buffer argument, string space)
    {
        if (_hasError) return Errno.EIO;
        buffer.TakeNumber = 0;
        if (Options.IsOutput)
        {
            var refused = _driver.BufOutValidate(buffer);
            if (refused != Errno.None) return refused;
        }

        if (!Options.CopiesTimestamps) buffer.Timestamp = 0;
        var before = buffer.State;
        buffer.State = Vb2State.Preparing;
        try
        {
            var errno = Memory switch
            {
                Vb2Memory.Mmap => PrepareMmap(buffer, argument),
                Vb2Memory.UserPtr => await PrepareUserPtrAsync(buffer, argument, space).ConfigureAwait(false),
                _ => await PrepareDmaBufAsync(buffer, argument).ConfigureAwait(false),
            };
            buffer.IsPrepared = errno == Errno.None;
            return errno;
        }
        catch when (Memory != Vb2Memory.Mmap)
        {
            await ForgetAsync(buffer, Errno.EIO).ConfigureAwait(false);
            throw;
        }
        finally
        {
            buffer.State = before;
        }
    }

    private Errno PrepareMmap(Vb2Buffer buffer, V4l2Buffer argument)
    {
        for (var plane = 0; plane < buffer.Planes.Count; plane++)
            SetPayload(buffer.Planes[plane], At(argument, plane), buffer.Planes[plane].Length);
        return _driver.BufPrepare(buffer);
    }

    /// <summary>__prepare_userptr, rows 87 to 91.</summary>
    private async Task<Errno> PrepareUserPtrAsync(Vb2Buffer buffer, V4l2Buffer argument, string space)
    {
        var isFresh = false;
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var plane = buffer.Planes[i];
            var given = At(argument, i);
            // The same address and length: the pages of last time, even if something else is mapped there now (row 88).
            if (given.UserPointer != 0 && plane.UserPointer == given.UserPointer && plane.Length == given.Length
                && plane.Memory is not null)
                continue;
            if (given.Length < plane.MinLength) return await ForgetAsync(buffer, Errno.EINVAL).ConfigureAwait(false);
            var old = plane.Memory;
            if (old is not null && !isFresh) Cleanup(buffer);
            plane.Memory = null;
            isFresh = true;
            (plane.UserPointer, plane.Length, plane.BytesUsed, plane.DataOffset) = (0, 0, 0, 0);
            Errno errno;
            try
            {
                (errno, plane.Memory) = await _memOps.GetUserPtrAsync(
                    space, given.UserPointer, given.Length, Options.Direction, old).ConfigureAwait(false);
            }
            finally
            {
                // Put already, unless it did not come to a pin.
                if (old is not null) await old.PutAsync().ConfigureAwait(false);
            }

            if (plane.Memory is null) return await ForgetAsync(buffer, errno).ConfigureAwait(false);
        }

        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var given = At(argument, i);
            buffer.Planes[i].Length = given.Length;
            buffer.Planes[i].UserPointer = given.UserPointer;
            SetPayload(buffer.Planes[i], given, given.Length);
        }

        return await FinishPrepareAsync(buffer, isFresh).ConfigureAwait(false);
    }

    /// <summary>
    /// __prepare_dmabuf. Since 6.12 all planes are let go at the first that differs, and those that name one dma-buf
    /// share an attachment.
    /// </summary>
    private async Task<Errno> PrepareDmaBufAsync(Vb2Buffer buffer, V4l2Buffer argument)
    {
        var attachesOnce = _memOps.Kernel.Features.Vb2SharesAttachments;
        var lengths = new ulong[buffer.Planes.Count];
        var isFresh = false;
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var (plane, given) = (buffer.Planes[i], At(argument, i));
            var size = given.DmaBuf.Length == 0 ? null : await _memOps.SizeOfAsync(given.DmaBuf).ConfigureAwait(false);
            lengths[i] = given.Length == 0 ? size ?? 0 : given.Length;
            if (size is null || lengths[i] < plane.MinLength)
                return await ForgetAsync(buffer, Errno.EINVAL).ConfigureAwait(false);
            if (plane.DmaBuf == given.DmaBuf && plane.Length == lengths[i] && plane.Memory is not null) continue;
            if (!isFresh) Cleanup(buffer);
            isFresh = true;
            if (attachesOnce) continue;
            var errno = await AttachAsync(buffer, i, given.DmaBuf, lengths[i]).ConfigureAwait(false);
            if (errno != Errno.None) return await ForgetAsync(buffer, errno).ConfigureAwait(false);
        }

        if (isFresh && attachesOnce)
        {
            await ReleasePlanesAsync(buffer).ConfigureAwait(false);
            for (var i = 0; i < buffer.Planes.Count; i++)
            {
                var errno = await AttachAsync(buffer, i, At(argument, i).DmaBuf, lengths[i]).ConfigureAwait(false);
                if (errno != Errno.None) return await ForgetAsync(buffer, errno).ConfigureAwait(false);
            }
        }

        for (var i = 0; i < buffer.Planes.Count; i++)
            SetPayload(buffer.Planes[i], At(argument, i), buffer.Planes[i].Length);
        return await FinishPrepareAsync(buffer, isFresh).ConfigureAwait(false);
    }

    /// <summary>Puts a dma-buf behind a plane, in place of what was there. On an errno there is nothing.</summary>
    private async Task<Errno> AttachAsync(Vb2Buffer buffer, int index, string dmaBuf, ulong length)
    {
        var plane = buffer.Planes[index];
        if (plane.Memory is { } old)
        {
            plane.Memory = null;
            await old.PutAsync().ConfigureAwait(false);
        }

        if (_memOps.Kernel.Features.Vb2SharesAttachments
            && buffer.Planes.Take(index).FirstOrDefault(earlier => earlier.DmaBuf == dmaBuf) is { Memory: { } shared })
        {
            plane.Memory = shared;
            plane.SharesAttachment = true;
        }
        else
        {
            var (errno, memory) = await _memOps.AttachDmaBufAsync(dmaBuf, length).ConfigureAwait(false);
            if (memory is null) return errno;
            plane.Memory = memory;
        }

        (plane.DmaBuf, plane.Length) = (dmaBuf, length);
        return Errno.None;
    }

    private async Task<Errno> FinishPrepareAsync(Vb2Buffer buffer, bool isFresh)
    {
        if (isFresh)
        {
            var failed = _driver.BufInit(buffer);
            if (failed != Errno.None) return await ForgetAsync(buffer, failed).ConfigureAwait(false);
            buffer.IsInitialised = true;
        }

        var errno = _driver.BufPrepare(buffer);
        return errno == Errno.None ? errno : await ForgetAsync(buffer, errno).ConfigureAwait(false);
    }

    /// <summary>Every plane of the buffer is released and forgotten: the next QBUF pins afresh.</summary>
    private async Task<Errno> ForgetAsync(Vb2Buffer buffer, Errno errno)
    {
        await ReleasePlanesAsync(buffer).ConfigureAwait(false);
        foreach (var plane in buffer.Planes) (plane.UserPointer, plane.DmaBuf, plane.Length) = (0, "", 0);
        return errno;
    }

    private void Cleanup(Vb2Buffer buffer)
    {
        if (buffer.IsInitialised) _driver.BufCleanup(buffer);
        buffer.IsInitialised = false;
    }

    /// <summary>Output: what the application says is in it, all of it when it says 0. Capture: nothing yet.</summary>
    private void SetPayload(Vb2Plane plane, V4l2Plane given, ulong length)
    {
        plane.BytesUsed = !Options.IsOutput ? 0 : given.BytesUsed != 0 ? given.BytesUsed : length;
        plane.DataOffset = Options.IsOutput && Options.IsMultiplanar ? given.DataOffset : 0;
    }

    /// <summary>A single-planar argument without its plane is all zeroes.</summary>
    private static V4l2Plane At(V4l2Buffer argument, int plane) =>
        plane < argument.Planes.Count ? argument.Planes[plane] : new V4l2Plane();
}
