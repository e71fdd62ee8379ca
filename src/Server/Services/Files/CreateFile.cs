using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    /// <summary>A file with its page cache (Core/Syscalls/FileCommands.cs).</summary>
    public override Task<V1.File> CreateFile(CreateFileRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var kind = WireEnums.ToCore(request.Kind, "kind");
            CheckSize(request.SizeBytes);
            Names.CheckText(request.Path, options.Limits.PathLengthMax, "path_length_max", "path");
            Names.CheckDeviceNumber(request.Device, "device");
            var order = request.HugePageBytes switch
            {
                0 or PageGeometry.PmdSize => PageGeometry.PmdOrder,
                PageGeometry.PudSize => PageGeometry.PudOrder,
                _ => throw Refusals.Bad("huge_page_bytes", "is 2 MiB or 1 GiB"),
            };
            using var name = host.Files.Reserve(request.FileId);
            var created = host.Machine.Call(new CreateFileCall(
                request.Path.Length == 0 ? $"/{name.Id}" : request.Path, kind, request.SizeBytes, order,
                request.Device.Length == 0 ? null : request.Device, request.Inode));
            return created.IsOk
                ? Task.FromResult(Views.Of(host, name.Fill(new FileId((int)created.Value))))
                : throw Refusals.Errno("create_file", created.Error);
        });
    }
}
