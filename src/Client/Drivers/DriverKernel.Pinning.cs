using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>The frame helper as a driver calls it.</summary>
public sealed partial class DriverKernel
{
    /// <summary>
    /// get_vaddr_frames into a new vector: what was had, which may be fewer pages than asked, or the errno of the first
    /// (drivers/media/common/videobuf2/frame_vector.c).
    /// </summary>
    /// <param name="space">The caller's address space.</param>
    /// <param name="start">Any byte of the first page.</param>
    /// <param name="pages">4 KiB pages; 0 is -ENOMEM, since there is no such vector.</param>
    /// <param name="isWrite">The device writes.</param>
    /// <param name="isForce">FOLL_FORCE; heeded by the eras that had it.</param>
    /// <param name="replaced">What is put before that, in the same message where that can be; null for nothing.</param>
    public async Task<(Errno Errno, PinnedFrames? Frames)> GetVaddrFramesAsync(
        string space, ulong start, ulong pages, bool isWrite, bool isForce, PutFrames? replaced = null)
    {
        if (pages > 0 && await TryPinOnLineAsync(
            space, start, pages, isWrite, isForce, replaced).ConfigureAwait(false) is { } pinned)
            return pinned;
        if (replaced is { } put) await PutAsync(put.Frames, put.IsDirty).ConfigureAwait(false);
        if (pages == 0) return (Errno.ENOMEM, null);
        var request = new PinRequest
        {
            AddressSpace = space,
            Start = start,
            Pages = pages,
            Write = isWrite,
            Force = isForce,
            Lease = Lease,
            Attachment = _local?.Name ?? "",
        };
        try
        {
            var pin = await Client.Pinning.PinAsync(request).ConfigureAwait(false);
            return (Errno.None, new PinnedFrames(
                pin.FrameVector, pin.Frames, pin.Kind == FrameKind.Pfns, pin.Runs, pin.Hold));
        }
        catch (RpcException exception)
        {
            return (ErrnoOf(exception), null);
        }
    }

    /// <summary>The same over the driver's stream. Null: the stream is taken, and nothing was done.</summary>
    private async Task<(Errno Errno, PinnedFrames? Frames)?> TryPinOnLineAsync(
        string space, ulong start, ulong pages, bool isWrite, bool isForce, PutFrames? replaced)
    {
        var pin = new PinRange
        {
            AddressSpace = space,
            Start = start,
            Pages = pages,
            Write = isWrite,
            Force = isForce,
            WithFrames = true,
            Traceparent = PinLine.Traceparent,
        };
        var operations = new List<PinOperation>(2);
        if (replaced is { } put) operations.Add(ToUnpin(put.Frames, put.IsDirty));
        operations.Add(new PinOperation { Pin = pin });
        PinOperationResult result;
        try
        {
            if (await _line.TryRunAsync(operations).ConfigureAwait(false) is not { } results) return null;
            result = results[^1];
        }
        catch (RpcException exception)
        {
            return (ErrnoOf(exception), null);
        }

        if (result.Errno != 0) return ((Errno)result.Errno, null);
        if (result.Refusal is { } refusal) return (ErrnoOf(refusal.ToRpcException()), null);
        var name = string.Create(CultureInfo.InvariantCulture, $"{Machine}/frameVectors/{result.FrameVector}");
        return (Errno.None, new PinnedFrames(
            name, result.Frames, result.Kind == FrameKind.Pfns, result.Runs, result.Hold));
    }

    /// <summary>pin_user_pages_fast into a new vector, for drivers without the helper (g2d since 5.12).</summary>
    public async Task<(Errno Errno, PinnedFrames? Frames)> PinUserPagesFastAsync(
        string space, ulong start, ulong pages, GupBits flags)
    {
        if (pages == 0) return (Errno.EINVAL, null);
        var request = new GupRequest
        {
            AddressSpace = space,
            Function = GupFunction.PinUserPagesFast,
            Start = start,
            Pages = pages,
            Flags = (uint)flags,
            Lease = Lease,
        };
        try
        {
            var pin = await Client.Pinning.GupAsync(request).ConfigureAwait(false);
            return (Errno.None, new PinnedFrames(pin.FrameVector, pin.Frames, isPfns: false, pin.Runs));
        }
        catch (RpcException exception)
        {
            return (ErrnoOf(exception), null);
        }
    }

    /// <summary>
    /// vb2_create_framevec: the pages of [start, start + length) bytes, all of them or none: -ENOMEM for none asked,
    /// the helper's errno, or -EFAULT for fewer (Semantics 2.9).
    /// </summary>
    /// <param name="space">The caller's address space.</param>
    /// <param name="start">Address in bytes.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="isWrite">The device writes.</param>
    /// <param name="replaced">What is put before that, whatever comes of it; null for nothing.</param>
    public async Task<(Errno Errno, PinnedFrames? Frames)> CreateFramevecAsync(
        string space, ulong start, ulong length, bool isWrite, PutFrames? replaced = null)
    {
        var first = start >> 12;
        var last = unchecked(start + length - 1) >> 12;
        var pages = unchecked(last - first + 1);
        // The vector's size and the helper's count are unsigned int.
        var (errno, frames) = await GetVaddrFramesAsync(
            space, start, (uint)pages, isWrite, isForce: Features.HelperForces, replaced).ConfigureAwait(false);
        if (frames is null || frames.Count == pages) return (errno, frames);
        await PutAsync(frames, isDirty: false).ConfigureAwait(false);
        return (Errno.EFAULT, null);
    }

    /// <summary>frame_vector_to_pages: false, and nothing changed, when a PFN has no struct page.</summary>
    public async Task<bool> ToPagesAsync(PinnedFrames frames)
    {
        ArgumentNullException.ThrowIfNull(frames);
        if (!frames.IsPfns) return true;
        try
        {
            var request = new ConvertRequest { FrameVector = frames.Name, To = FrameKind.Pages, OmitFrames = true };
            await Client.Pinning.ConvertAsync(request).ConfigureAwait(false);
            frames.IsPfns = false;
            return true;
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.InvalidArgument)
        {
            return false;
        }
    }

    /// <summary>
    /// Marks every page dirty first when the device wrote, then put_vaddr_frames and frame_vector_destroy. A vector
    /// that went with a lost lease is gone already.
    /// </summary>
    public async Task PutAsync(PinnedFrames frames, bool isDirty)
    {
        ArgumentNullException.ThrowIfNull(frames);
        try
        {
            if (await _line.TryRunAsync([ToUnpin(frames, isDirty)]).ConfigureAwait(false) is not null) return;
            var request = new UnpinRequest { FrameVector = frames.Name, Dirty = isDirty };
            if (frames.Hold != 0) (request.Attachment, request.Hold) = (_local!.Name, frames.Hold);
            await Client.Pinning.UnpinAsync(request).ConfigureAwait(false);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // Released with the lease or the machine.
        }
    }

    private static PinOperation ToUnpin(PinnedFrames frames, bool isDirty) => new()
    {
        UnpinVector = new UnpinVector
        {
            FrameVector = ulong.Parse(
                frames.Name.AsSpan(frames.Name.LastIndexOf('/') + 1), CultureInfo.InvariantCulture),
            Dirty = isDirty,
            Hold = frames.Hold,
            Traceparent = PinLine.Traceparent,
        },
    };

    /// <summary>
    /// The kernel's errno; a limit of the daemon is memory that is out, and an address space that is gone has no pages.
    /// </summary>
    private static Errno ErrnoOf(RpcException exception)
    {
        var refusal = FramePinException.From(exception);
        if (refusal.Errno != 0) return (Errno)refusal.Errno;
        return exception.StatusCode switch
        {
            StatusCode.ResourceExhausted => Errno.ENOMEM,
            StatusCode.NotFound => Errno.EFAULT,
            _ => throw exception,
        };
    }
}
